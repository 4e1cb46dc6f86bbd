"""Threads of one process that use one model whose parameters are cut over ranks."""

from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import nn

from flagai.parallel.dtensor import is_sharded, local, sharded_logits
from flagai.parallel.world import make_mesh
from tests import tiny
from tests.parallel.comparing import folder, make
from tests.parallel.ranks import on_ranks
from tests.threads import together

# GLM's prompt encoder is an LSTM.
MODELS: list[tuple[str, dict[str, Any]]] = [("GPT2Model", {}), ("GLMModel", {})]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make(root, MODELS)
    return root


def loaded(root: Path, number: int) -> Any:
    name, changes = MODELS[number]
    return tiny.CLASSES[name].from_pretrained(folder(root, name, changes), mesh=make_mesh(tp=2))


def same_in_threads(layer: nn.Module, values: torch.Tensor) -> None:
    work = torch.no_grad()(lambda: layer(values))  # a mode of the thread
    expected, before = work(), dict(vars(layer))
    for found in together(work, times=200):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert vars(layer) == before


def layers_in_threads(root: Path) -> None:
    # Layers that wait for no other rank: threads of two ranks would wait for each other in any order.
    block = loaded(root, 0).blocks[0]
    same_in_threads(block.attention.q, torch.randn(1, 5, 16))
    same_in_threads(block.norm1, torch.randn(1, 5, 16))
    layer = next(module for module in loaded(root, 1).modules() if isinstance(module, nn.LSTM))
    same_in_threads(layer, torch.randn(1, 3, layer.input_size))


def logits_beside_parts(root: Path) -> None:
    model = loaded(root, 0)
    inside, over = Event(), Event()

    def other() -> None:
        with sharded_logits():
            inside.set()
            over.wait()

    thread = Thread(target=other)
    thread.start()
    inside.wait()
    arguments = tiny.batch("GPT2Model")
    try:
        with torch.no_grad():
            whole = model(**arguments)["logits"]
            with sharded_logits():
                part = model(**arguments)["logits"]
            again = model(**arguments)["logits"]
    finally:
        over.set()
        thread.join()
    assert not is_sharded(whole)
    assert is_sharded(part)
    assert local(part).shape[-1] < whole.shape[-1]
    assert torch.equal(whole, again)


def test_layers_keep_nothing_of_a_call_that_another_thread_could_see(models: Path) -> None:
    on_ranks(2, layers_in_threads, models)


def test_sharded_logits_are_for_the_thread_that_asked(models: Path) -> None:
    on_ranks(2, logits_beside_parts, models)
