"""Choices by kernels are those of torch, and leave everything as those do: greedy, drawn, and of beams."""

import importlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
import torch

from flagai.generation import generate, stream
from flagai.generation.replay import compile_ahead, cuda_graph
from flagai.generation.replay.search_step import CapturedSearchStep
from flagai.generation.replay.steps import captured_steps
from flagai.generation.search import Search, search_step
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import StepOutput
from flagai.kernels.decode import search_steps
from tests.generation.writers import KINDS, SEARCHES, Writer, writer
from tests.kernels.conftest import DEVICE
from tests.kernels.steps import left_by

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="on a GPU, kernels take half precision: see tests/gpu")
# Rows that end at different times, and some by their length; some ids are never allowed.
STOPS: dict[str, Any] = {"stop_token_ids": tuple(range(2, 30, 4)), "max_new_tokens": 8}
BANNED: dict[str, Any] = {"stop_token_ids": (2, 17), "max_new_tokens": 6, "suppress_tokens": (3, 9, 12)}
DRAWN: dict[str, Any] = {"do_sample": True, "seed": 3, "num_return_sequences": 3}
BEST: dict[str, Any] = {"temperature": 1.5, "top_k": 9, "top_p": 0.8}
BEAMS: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6}
OPTIONS: dict[str, dict[str, Any]] = {
    "stops": STOPS,
    "banned": BANNED,
    "drawn": STOPS | DRAWN | {"max_new_tokens": 4},
    "drawn of the best": BANNED | DRAWN | BEST,
    "drawn hot": BANNED | DRAWN | {"temperature": 2.0},
    "beams": STOPS | BEAMS,
    "hasty beams": BANNED | BEAMS | {"early_stopping": True, "length_penalty": 0.7},
    "long beams": STOPS | BEAMS | {"early_stopping": "never", "length_penalty": 1.4, "max_new_tokens": 4},
}


class EveryTime:
    """A recorder that does the work anew each time."""

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        return work


@dataclass
class TakesAll:
    """What choices ask of the hardware."""

    kernels: bool = True
    HALF = (torch.float32,)

    def has_triton(self, _: torch.device) -> bool:
        return self.kernels


class Calls(list[str]):
    """The names of the threads on which kernels have made choices; ``compile`` is called first."""

    def compile(self) -> None:
        """What a compiler does."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> Iterator[Calls]:
    found = Calls()

    def noted(compute: Callable[..., None]) -> Callable[..., None]:
        def step(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> None:
            found.compile()
            found.append(threading.current_thread().name)
            compute(search, output, inputs)

        return step

    importlib.import_module("flagai.kernels.decode.search_steps")
    kernels = list(search_step.implementations)
    search_step.implementations[:] = [replace(each, compute=noted(each.compute)) for each in kernels]
    monkeypatch.setattr(cuda_graph, "recorder_for", lambda _: EveryTime())
    monkeypatch.setattr(cuda_graph, "can_record", lambda _: device.type == "cpu")
    monkeypatch.setattr(compile_ahead, "PATIENCE", 100)
    monkeypatch.setattr(search_steps, "hardware", TakesAll())
    # More than one chunk of the tiny vocabularies.
    for name, size in {"FEWEST_COMPARED": 32, "DRAWN": 32, "CHUNK": 32, "PIECE": 8}.items():
        monkeypatch.setattr(search_steps, name, size)
    yield found
    search_step.implementations[:] = kernels


def same(writing: Writer, **options: Any) -> None:
    wanted = generate(writing.model, writing.prompts, writing.decoding(**options, cuda_graphs=False))
    found = generate(writing.model, writing.prompts, writing.decoding(**options))
    for ours, theirs in zip(found, wanted, strict=True):
        assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
        assert [answer.finished for answer in ours] == [answer.finished for answer in theirs]
        assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], abs=1e-4)


# Each kind of option and of position; the others are slow.
DEFAULT = {
    ("glm-blanks", "stops"),
    ("t5", "banned"),
    ("glm-blanks", "drawn"),
    ("gpt2", "drawn of the best"),
    ("gpt2", "long beams"),
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(*case, marks=() if case in DEFAULT else pytest.mark.slow)
        for case in product(KINDS, OPTIONS)
        if case[0] != "glm-blanks" or "beams" not in case[1]
    ],
)
def test_answers(kind: str, options: str, calls: Calls) -> None:
    same(writer(kind), **OPTIONS[options])
    assert len(calls) > 4


@pytest.mark.parametrize(("kind", "options"), [("gpt2", {}), ("glm-blanks", {}), ("gpt2", DRAWN), ("gpt2", BEAMS)])
def test_everything_is_left_as_torch_leaves_it(
    kind: str, options: dict[str, Any], calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every choice: the search, the state, and what the model's step reads."""
    writing, stops, states = writer(kind), (2, 5, 17), []
    grow = CapturedSearchStep.__call__

    def noted(self: CapturedSearchStep) -> None:
        grow(self)
        states.append({name: tensor.clone() for name, tensor in left_by(self.search, self.forward.inputs).items()})

    monkeypatch.setattr(CapturedSearchStep, "__call__", noted)
    for kernels in (True, False):
        monkeypatch.setattr(search_steps, "hardware", TakesAll(kernels))
        generate(
            writing.model,
            writing.prompts,
            writing.decoding(**{**options, "max_new_tokens": 6, "stop_token_ids": stops}),
        )
        captured_steps(writing.model).clear()
    half = len(states) // 2
    assert half > 4
    for got, wanted in zip(states[:half], states[half:], strict=True):
        for name, tensor in wanted.items():
            torch.testing.assert_close(got[name], tensor, msg=lambda text, name=name: f"{name}: {text}")
    assert len(calls) > half, "a trial, and every choice of the first answers"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_of_equals_the_first(dtype: torch.dtype, device: torch.device) -> None:
    """Within a chunk and in several; with whole chunks of nothing, and with what is banned."""
    torch.manual_seed(0)
    logits = torch.randint(-3, 4, (5, 75), device=device).to(dtype)
    logits[1, 20:40] = -torch.inf
    logits[2] = 1
    logits[3, 70] = 9
    banned = torch.tensor([0, 70], device=device)
    parts, firsts = torch.zeros(3, 5, 5, device=device), torch.zeros(5, 5, dtype=torch.int32, device=device)
    from flagai.kernels.triton.greedy import argmax_kernel  # needs triton

    argmax_kernel[(5, 5)](logits, banned, parts, firsts, 75, 2, CHUNK=16, PDL=False)
    scores = logits.log_softmax(-1, dtype=torch.float32).index_fill(-1, banned, -torch.inf)
    highs, totals, bests = parts
    tokens = torch.where(bests == bests.amax(1, keepdim=True), firsts, 99).amin(1)
    assert tokens.tolist() == scores.argmax(-1).tolist()
    value = bests.amax(1) - (totals * highs.exp()).sum(1).log()
    torch.testing.assert_close(value, scores.amax(-1), atol=1e-4, rtol=1e-4)


KNOWN = ("greedy", "sampling", "beams", "long beams", "hasty beams")


@pytest.mark.parametrize("search", [search for search in SEARCHES if search not in KNOWN])
def test_other_ways_of_choosing_are_not_touched(search: str, calls: Calls) -> None:
    same(writer("gpt2"), **{**SEARCHES[search], "max_new_tokens": 8})
    assert not calls


def test_hooks_and_processors_are_asked(calls: Calls) -> None:
    writing = writer("gpt2")
    decoding = writing.decoding(stop_token_ids=())
    asked = generate(writing.model, writing.prompts, decoding, stop=lambda row, ids: len(ids) == row + 2)
    assert [len(row[0].ids) for row in asked] == [2, 3, 4, 5]
    generate(writing.model, writing.prompts, decoding, logits_processors=[lambda _, scores: scores])
    assert not calls


def test_streams(calls: Calls) -> None:
    writing = writer("glm-blanks")
    decoding = writing.decoding(max_new_tokens=5)
    wanted = generate(writing.model, writing.prompts, writing.decoding(max_new_tokens=5, cuda_graphs=False))
    told: list[dict[int, tuple[int, ...]]] = [{} for _ in writing.prompts]
    for event in stream(writing.model, writing.prompts, decoding):
        told[event.row][event.piece] = told[event.row].get(event.piece, ()) + event.ids
    for row, answers in zip(told, wanted, strict=True):
        assert [row.get(piece, ()) for piece in range(len(answers[0].pieces))] == list(answers[0].pieces)
    assert calls


def test_kernels_that_fail_are_done_without(calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("no C compiler")

    calls.compile = fail  # type: ignore[method-assign]
    writing = writer("gpt2")
    for _ in range(2):
        same(writing, max_new_tokens=9)
    assert caplog.text.count("no C compiler") == 1, "they are tried once for a model"
    (steps,) = captured_steps(writing.model)
    assert len(steps.compiling) == 1


@pytest.mark.parametrize("kind", ["gpt2", "glm-blanks"])
def test_torch_chooses_until_kernels_are_there(kind: str, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of answers, one goes on where the other stopped."""
    writing, gate = writer(kind), threading.Event()

    def compiled() -> None:
        if threading.current_thread() is not threading.main_thread():
            gate.wait(60)

    calls.compile = compiled  # type: ignore[method-assign]
    monkeypatch.setattr(compile_ahead, "PATIENCE", 0.01)
    options: dict[str, Any] = {"max_new_tokens": 10, "stop_token_ids": (36,)}
    wanted = generate(writing.model, writing.prompts, writing.decoding(**options, cuda_graphs=False))
    found: dict[int, Any] = {}
    events = stream(writing.model, writing.prompts, writing.decoding(**options))
    for number, event in enumerate(events):
        if event.hypotheses:
            found[event.row] = event.hypotheses[0].pieces
        if number == 4 * len(writing.prompts):
            assert not calls
            gate.set()
            for thread in threading.enumerate():
                if thread.name == "flagai-kernels":
                    thread.join()
    assert len(calls) > 2
    assert [found[row] for row in range(len(wanted))] == [row[0].pieces for row in wanted]
