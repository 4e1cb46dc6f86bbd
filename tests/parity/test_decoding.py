"""Token by token with a cache or a memory gives what the whole text at once gives."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch

from tests import tiny

ROWS, PROMPT, TOTAL = 3, 5, 10
# (rows, first position, end, whether it is the first call) -> arguments of forward
Arguments = Callable[[torch.Tensor, int, int, bool], dict[str, Any]]


@dataclass(frozen=True)
class Decoder:
    """A model, and how to call it for some positions of some rows of a batch."""

    model: Any
    arguments: Arguments
    valid: torch.Tensor
    prompt: int = 1

    @torch.no_grad()
    def whole(self, rows: torch.Tensor) -> torch.Tensor:
        """The logits of complete texts, without a cache."""
        return self.model(**self.arguments(rows, 0, TOTAL, True))["logits"]

    @torch.no_grad()
    def steps(self, rows: torch.Tensor, bounds: Iterable[int], cache: Any) -> torch.Tensor:
        """The logits of the chunks between the bounds, with a cache."""
        chunks = [
            self.model(**self.arguments(rows, start, end, start == 0), cache=cache)["logits"]
            for start, end in pairwise(bounds)
        ]
        return torch.cat(chunks, dim=1)

    def check(self, got: torch.Tensor, rows: torch.Tensor, start: int = 0) -> None:
        """Compare logits from a position on with those of complete texts."""
        where = self.valid[rows, start:]
        torch.testing.assert_close(got[where], self.whole(rows)[:, start:][where], atol=1e-5, rtol=1e-5)


ALL = torch.arange(ROWS)
LEFT = torch.arange(TOTAL) >= torch.tensor([[0], [2], [3]])
INSIDE = ~((torch.arange(TOTAL) < PROMPT) & (torch.arange(TOTAL) >= torch.tensor([[5], [3], [4]])))


def gpt2(valid: torch.Tensor, explicit: bool) -> Decoder:
    """Left-padded texts; the padding is told by its id or by a mask over past and present."""
    tokens = tiny.ids(37, ROWS, TOTAL)
    tokens = tokens if explicit else tokens.masked_fill(~valid, 0)

    def arguments(rows: torch.Tensor, start: int, end: int, first: bool) -> dict[str, Any]:
        mask = {"attention_mask": valid[rows, :end].long()} if explicit else {}
        return {"input_ids": tokens[rows, start:end], **mask}

    return Decoder(tiny.build("GPT2Model"), arguments, valid)


def t5(**changes: Any) -> Decoder:
    """The encoder's text and its mask are given once; the cache remembers both."""
    text, tokens = tiny.ids(41, ROWS, 7), tiny.ids(41, ROWS, TOTAL, seed=1)
    mask = (torch.arange(7) < torch.tensor([[7], [4], [6]])).long()

    def arguments(rows: torch.Tensor, start: int, end: int, first: bool) -> dict[str, Any]:
        encoder = {"input_ids": text[rows], "attention_mask": mask[rows]} if first else {}
        return {**encoder, "decoder_input_ids": tokens[rows, start:end]}

    return Decoder(tiny.build("T5Model", **changes), arguments, torch.ones(ROWS, TOTAL, dtype=torch.bool))


def bert() -> Decoder:
    """A prompt that sees itself, padded on the right, then a causal text whose positions go on from the prompt."""
    tokens = tiny.ids(31, ROWS, TOTAL).masked_fill(~INSIDE, 0)
    positions = (INSIDE.cumsum(1) - 1).clamp(min=0)
    segments = (torch.arange(TOTAL) >= PROMPT).long().expand(ROWS, TOTAL)

    def arguments(rows: torch.Tensor, start: int, end: int, first: bool) -> dict[str, Any]:
        texts = {"input_ids": tokens, "position_ids": positions, "segment_ids": segments}
        return {key: value[rows, start:end] for key, value in texts.items()}

    return Decoder(tiny.build("BertForSeq2seq"), arguments, INSIDE, prompt=PROMPT)


def glm(kind: str, **changes: Any) -> Decoder:
    """A context that sees itself, then a causal span; the mask says so in one of GLM's ways."""
    place = torch.arange(TOTAL)
    span = (place - PROMPT + 1).clamp(min=0)
    positions = torch.stack([torch.where(span > 0, 2, place), span]).expand(ROWS, 2, TOTAL)
    positions = positions[:, 0] if changes else positions
    separators = torch.tensor([5, 3, 4]) if kind == "rows" else torch.full([ROWS], PROMPT)
    valid = {"left": LEFT, "inside": INSIDE}.get(kind, LEFT | True)
    causal = place <= place[:, None]
    matrix = ((place < separators[:, None, None]) | causal) & valid[:, None]
    tokens = tiny.ids(37, ROWS, TOTAL)

    def mask(rows: torch.Tensor, start: int, end: int, first: bool) -> torch.Tensor | None:
        if kind in ("left", "inside"):
            return matrix[rows, None, start:end, :end].long()
        if kind == "matrix":
            return matrix[rows, start:end, :end]
        if first:
            return separators[rows] if kind == "rows" else torch.tensor(PROMPT)
        return None if kind == "none" else torch.zeros(1, dtype=torch.long)

    def arguments(rows: torch.Tensor, start: int, end: int, first: bool) -> dict[str, Any]:
        return {
            "input_ids": tokens[rows, start:end],
            "position_ids": positions[rows, ..., start:end],
            "attention_mask": mask(rows, start, end, first),
        }

    return Decoder(tiny.build("GLMModel", spell_length=None, **changes), arguments, valid, prompt=PROMPT)


DECODERS: dict[str, Callable[[], Decoder]] = {
    "gpt2": lambda: gpt2(LEFT | True, explicit=False),
    "gpt2-left-padded": lambda: gpt2(LEFT, explicit=False),
    "gpt2-with-mask": lambda: gpt2(LEFT, explicit=True),
    "t5": t5,
    "t5-gated": lambda: t5(**tiny.GATED),
    "bert": bert,
    "glm-scalar": lambda: glm("scalar"),
    "glm-scalar-then-none": lambda: glm("none"),
    "glm-rows": lambda: glm("rows"),
    "glm-matrix": lambda: glm("matrix"),
    "glm-left-padded": lambda: glm("left"),
    "glm-right-padded": lambda: glm("inside"),
    "glm-one-position": lambda: glm("scalar", block_position_encoding=False),
}


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return DECODERS[request.param]()


@pytest.mark.parametrize("capacity", [0, TOTAL])
@pytest.mark.parametrize("later", [range(6, TOTAL + 1), (7, TOTAL), (8, 9, TOTAL)], ids=str)
def test_chunks_equal_the_whole(decoder: Decoder, later: Iterable[int], capacity: int) -> None:
    got = decoder.steps(ALL, [0, PROMPT, *later], decoder.model.new_cache(capacity))
    decoder.check(got, ALL)


def test_single_tokens_equal_the_whole(decoder: Decoder) -> None:
    got = decoder.steps(ALL, [0, *range(decoder.prompt, TOTAL + 1)], decoder.model.new_cache())
    decoder.check(got, ALL)


@pytest.mark.parametrize("rows", [[2, 0, 1], [1], [0, 0, 2, 2, 1]], ids=str)
def test_selected_rows_go_on(decoder: Decoder, rows: list[int]) -> None:
    cache = decoder.model.new_cache()
    chosen = torch.tensor(rows)
    decoder.steps(ALL, [0, PROMPT, 6], cache)
    cache.select(chosen)
    decoder.check(decoder.steps(chosen, [6, 8, TOTAL], cache), chosen, start=6)


@pytest.mark.parametrize("length", [PROMPT, 7])
def test_cropped_positions_are_forgotten(decoder: Decoder, length: int) -> None:
    cache = decoder.model.new_cache()
    decoder.steps(ALL, sorted({0, PROMPT, length}), cache)
    decoder.steps(ALL.flip(0), [length, TOTAL], cache)  # the wrong texts
    cache.crop(length)
    assert cache.length == length
    decoder.check(decoder.steps(ALL, [length, 8, TOTAL], cache), ALL, start=length)


def test_a_cache_longer_than_one_buffer() -> None:
    model, tokens = tiny.build("GPT2Model", n_positions=150), tiny.ids(37, 2, 150)
    cache = model.new_cache()
    with torch.no_grad():
        got = torch.cat([model(tokens[:, i : i + 3], cache=cache)["logits"] for i in range(0, 150, 3)], dim=1)
        torch.testing.assert_close(got, model(tokens)["logits"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padded_prompts_equal_each_text_on_its_own() -> None:
    """Right-padded prompts with given positions are no other texts than the same ones without padding."""
    decoder = bert()
    got = decoder.steps(ALL, [0, *range(PROMPT, TOTAL + 1)], decoder.model.new_cache())
    given = decoder.arguments(ALL, 0, TOTAL, True)
    for row in range(ROWS):
        real = INSIDE[row]
        alone = decoder.model(given["input_ids"][row, real][None], segment_ids=given["segment_ids"][row, real][None])
        torch.testing.assert_close(got[row, real], alone["logits"][0], atol=1e-5, rtol=1e-5)


# -- GLM's memories ---------------------------------------------------------------------------------------------------


def remember(decoder: Decoder, start: int, end: int, memory: Any = None, **options: Any) -> dict[str, Any]:
    arguments = decoder.arguments(ALL, start, end, start == 0)
    output: dict[str, Any] = decoder.model(**arguments, mems=memory, return_memory=True, **options)
    return output


@torch.no_grad()
def test_a_memory_serves_several_continuations() -> None:
    """Interleaved continuations of one memory do not see each other, and leave the memory as it was."""
    decoder = glm("scalar")
    memory = remember(decoder, 0, PROMPT)["hidden_states"]
    right, wrong = [], memory
    current = memory
    for step in range(PROMPT, TOTAL):
        output = remember(decoder, step, step + 1, current)
        arguments = decoder.arguments(ALL.flip(0), step, step + 1, False)
        wrong = decoder.model(**arguments, mems=wrong, return_memory=True)["hidden_states"]
        current = output["hidden_states"]
        right.append(output["logits"])
    assert (memory.length, current.length) == (PROMPT, TOTAL)
    decoder.check(torch.cat(right, dim=1), ALL, start=PROMPT)
    decoder.check(remember(decoder, PROMPT, TOTAL, memory)["logits"], ALL, start=PROMPT)


def test_gradients_flow_through_an_attached_memory() -> None:
    decoder = glm("scalar")
    parameters = dict(decoder.model.named_parameters())

    def gradients(logits: torch.Tensor) -> dict[str, torch.Tensor]:
        found = torch.autograd.grad(logits.square().mean(), list(parameters.values()))
        return dict(zip(parameters, found, strict=True))

    whole = gradients(decoder.model(**decoder.arguments(ALL, 0, TOTAL, True))["logits"][:, 7:])
    memory = remember(decoder, 0, PROMPT, detach_memory=False)["hidden_states"]
    memory = remember(decoder, PROMPT, 7, memory, detach_memory=False)["hidden_states"]
    torch.testing.assert_close(gradients(remember(decoder, 7, TOTAL, memory)["logits"]), whole, atol=1e-5, rtol=1e-4)
    detached = remember(decoder, 0, 7, detach_memory=True)["hidden_states"]
    cut = gradients(remember(decoder, 7, TOTAL, detached)["logits"])
    assert cut["embed.block_position.weight"][0].abs().max() == 0  # only the context stands at 0
    assert whole["embed.block_position.weight"][0].abs().max() > 0


@torch.no_grad()
def test_a_separator_counts_from_the_first_new_token() -> None:
    """After a memory, a separator opens all of the memory and the first new tokens to every new token."""
    decoder = glm("scalar")
    memory = remember(decoder, 0, PROMPT)["hidden_states"]
    arguments = decoder.arguments(ALL, PROMPT, TOTAL, False)
    place = torch.arange(TOTAL)
    matrix = (place < PROMPT + 3) | (place <= place[PROMPT:, None])
    found, wanted = (
        decoder.model(**{**arguments, "attention_mask": mask}, mems=memory)["logits"]
        for mask in (torch.tensor([3]), matrix.expand(ROWS, -1, -1))
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, decoder.model(**arguments, mems=memory)["logits"], atol=1e-3)


def test_tokens_that_see_nothing_are_finite(decoder: Decoder) -> None:
    """Padding on the left sees nothing; what comes of it, forward and backward, must not be NaN."""
    output = decoder.model(**decoder.arguments(ALL, 0, TOTAL, True))
    assert output["logits"].isfinite().all()
    output["logits"][decoder.valid].sum().backward()
    for name, parameter in decoder.model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    decoder.model.zero_grad()


def test_t5_bears_texts_that_are_all_padding() -> None:
    decoder = t5()
    nothing = torch.zeros(ROWS, 7, dtype=torch.long)
    arguments = {**decoder.arguments(ALL, 0, TOTAL, True), "attention_mask": nothing}
    output = decoder.model(**arguments, decoder_attention_mask=(torch.arange(TOTAL) > 2).long().expand(ROWS, TOTAL))
    assert output["logits"].isfinite().all()
    output["logits"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in decoder.model.parameters())
