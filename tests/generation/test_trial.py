"""Kernels that have yet to be compiled hold nobody up, and those that cannot be are done without."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from flagai.generation import generate, stream
from flagai.generation.replay import compile_ahead
from flagai.generation.replay.steps import captured_steps
from flagai.model.block.stack import cached_blocks
from flagai.model.layer.operation import Implementation
from tests.generation.tape import taped
from tests.generation.writers import Writer, writer

Done = dict[str, Any]


@pytest.fixture
def compiler() -> Iterator[Done]:
    """What the kernels of a step do when they are called for the first time, on another thread."""
    found: Done = {"compile": lambda: None, "calls": 0, "threads": set()}

    def kernels(blocks: Any, hidden: Any, attn_mask: Any, *given: Any, **named: Any) -> torch.Tensor:
        if attn_mask.table is None:  # a prompt
            pass
        elif threading.current_thread() is not threading.main_thread():
            found["compile"]()
        else:
            found["calls"] += 1
        return cached_blocks.plain(blocks, hidden, attn_mask, *given, **named)

    cached_blocks.implementations.insert(
        0, Implementation("kernels", lambda *_, **__: True, kernels, traceable=False, jit=True)
    )
    with taped():
        yield found
    del cached_blocks.implementations[0]


def plain(writing: Writer) -> Any:
    return generate(
        writing.model, writing.prompts, writing.decoding(max_new_tokens=16, stop_token_ids=(), cuda_graphs=False)
    )


def test_kernels_that_are_ready_make_all_steps(compiler: Done) -> None:
    writing = writer("gpt2")
    wanted = plain(writing)
    got = generate(writing.model, writing.prompts, writing.decoding(max_new_tokens=16, stop_token_ids=()))
    assert [row[0].ids for row in got] == [row[0].ids for row in wanted]
    assert compiler["calls"] == 2  # the warm-up and the capture


def test_steps_go_on_until_kernels_are_there(compiler: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    compiler["compile"] = lambda: gate.wait(60)
    monkeypatch.setattr(compile_ahead, "PATIENCE", 0.01)
    writing, calls, ids = writer("gpt2"), [], []
    wanted = plain(writing)[0][0].ids
    one = writing.prompts[:1]
    for event in stream(writing.model, one, writing.decoding(max_new_tokens=16, stop_token_ids=())):
        ids += event.ids
        calls.append(compiler["calls"])
        if len(ids) == 6:
            gate.set()
            for thread in threading.enumerate():
                if thread.name == "flagai-kernels":
                    thread.join()
    assert tuple(ids) == wanted
    assert calls[5] == 0
    assert calls[-1] > 0
    generate(writing.model, one, writing.decoding(max_new_tokens=16, stop_token_ids=()))
    assert compiler["calls"] == calls[-1], "what has been recorded is replayed"
    assert len(captured_steps(writing.model)) == 1


def test_a_compiler_that_fails_is_done_without(compiler: Done, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("no C compiler")

    compiler["compile"] = fail
    writing = writer("gpt2")
    got = generate(writing.model, writing.prompts, writing.decoding(max_new_tokens=16, stop_token_ids=()))
    assert [row[0].ids for row in got] == [row[0].ids for row in plain(writing)]
    assert compiler["calls"] == 0
    assert "no C compiler" in caplog.text
