"""Folders that transformers writes at random: our outputs are theirs, or the configuration is refused by name."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from flagai.model.t5_config import T5Config
from tests.parity import variants

# Base classes of configurations say these in Python; no file does.
_NOT_IN_FILES = {"per_layer_config"}


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with variants.silent():
        yield


def tried(folder: Path, seeds: range) -> Counter[str]:
    found: Counter[str] = Counter()
    wrong = []
    for seed in seeds:
        target = folder / str(seed)
        kind, what = variants.compare(seed, target)
        found[kind] += 1
        if kind in ("different", "raw error"):
            wrong.append(f"{kind}: {what}")
    assert not wrong, "\n".join(wrong)
    return found


def test_random_configurations_are_equal_or_refused(tmp_path: Path) -> None:
    found = tried(tmp_path, range(70))
    assert found["equal"] > 30
    assert found["refused"] > 10


# Drawn by longer runs: RoBERTa's untied head, whose bias is not the one beside it; its head's own activation; a
# RoBERTa's weights under the model_type of BERT; an mT5 that only its architecture tells.
FOUND = {442: "equal", 808: "equal", 848: "refused", 1240: "equal"}


def test_variants_that_differed_once(tmp_path: Path) -> None:
    assert {seed: variants.compare(seed, tmp_path / str(seed))[0] for seed in FOUND} == FOUND


@pytest.mark.slow
def test_two_thousand_configurations_are_equal_or_refused(tmp_path: Path) -> None:
    found = tried(tmp_path, range(70, 2070))
    assert found["equal"] > 900


@pytest.mark.parametrize("family", variants.FAMILIES, ids=lambda family: family.theirs.__name__)
def test_every_documented_key_is_varied(family: variants.Family) -> None:
    """A new version of transformers with a new key makes this fail: honour it, refuse it, or add it to the table."""
    known = {field.name for field in dataclasses.fields(family.theirs.config_class)} - _NOT_IN_FILES
    assert known <= {*variants.COMMON, *family.keys}


def test_a_wrong_answer_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = next(family for family in variants.FAMILIES if family.theirs is transformers.T5ForConditionalGeneration)
    monkeypatch.setattr(
        variants, "FAMILIES", [dataclasses.replace(family, base=family.base | {"dense_act_fn": "gelu"})]
    )
    monkeypatch.setattr(T5Config, "activation", "relu")
    assert "different" in {variants.compare(seed, tmp_path / str(seed))[0] for seed in range(6)}
