"""Every class computes on several ranks what it computes on one: tensor parallel, sharded, and both."""

from pathlib import Path
from typing import Any

import pytest

from flagai.parallel.world import make_mesh
from tests import tiny
from tests.parallel.comparing import compare, computed, folder, make
from tests.parallel.ranks import on_ranks

Entries = list[tuple[str, dict[str, Any]]]
# The mesh, and whether it shards: two ranks share a model, two shard it, four do both.
WAYS: dict[str, tuple[dict[str, int], bool]] = {
    "tp=2": ({"tp": 2}, False),
    "fsdp=2": ({"dp": 2, "tp": 1}, True),
    "fsdp=2, tp=2": ({"dp": 2, "tp": 2}, True),
}
SLOW_WAYS: dict[str, tuple[dict[str, int], bool]] = {
    "tp=4": ({"tp": 4}, False),
    "dp=2, tp=2": ({"dp": 2, "tp": 2}, False),
    "fsdp=4": ({"dp": 4, "tp": 1}, True),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make(root, tiny.EVERY)
    return root


def check_every(root: Path, entries: Entries, dimensions: dict[str, int], fsdp: bool) -> None:
    mesh = make_mesh(**dimensions)
    for name, changes in entries:
        target = folder(root, name, changes)
        model = tiny.CLASSES[name].from_pretrained(target, mesh=mesh, fsdp=fsdp)
        compare(computed(model, name, changes), target, what=f"{name} {changes}")


def check(root: Path, entries: Entries, dimensions: dict[str, int], fsdp: bool) -> None:
    on_ranks(dimensions.get("dp", 1) * dimensions["tp"], check_every, root, entries, dimensions, fsdp)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "fsdp=2"])
def test_every_class_equals_one_process(models: Path, way: str) -> None:
    entries = tiny.EVERY if way == "tp=2" else [entry for entry in tiny.EVERY if not entry[1]]
    check(models, entries, *WAYS[way])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS | SLOW_WAYS)
def test_every_variant_equals_one_process(models: Path, way: str) -> None:
    check(models, tiny.EVERY, *(WAYS | SLOW_WAYS)[way])
