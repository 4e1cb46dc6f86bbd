"""Many prompts through the engine: windows of similar length, whose cache fits into a fixed amount of memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from flagai.errors import InputError
from flagai.generation import Decoding, Hypothesis, Prompt, generate
from flagai.generation.checks import check
from flagai.generation.protocol import GenerativeModel, decoding_of
from flagai.generation.types import LogitsProcessor
from flagai.model.base_model import BaseModel

# Bytes of keys, values and logits of one window on a CPU; on a GPU it is this share of its memory.
CPU_BYTES = 2**30
_GPU_SHARE = 8
# Copies of a row of logits in float32 that a step holds: scores, their logarithms, what the processors return.
_LOGITS = 4
_MOST_SEEDS = 2**62

Stop = Callable[[int, Sequence[int]], bool]


def generate_in_windows(
    model: GenerativeModel,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    logits_processors: Sequence[LogitsProcessor] = (),
    stop: Stop | None = None,
) -> list[list[Hypothesis]]:
    """The answers of :func:`flagai.generation.generate`, computed window by window.

    Args:
        model: a model that generates text.
        prompts: the prompts, all with blanks or all without.
        decoding: how to decode; ``seeds`` has one seed per prompt.
        logits_processors: called with the rows of one window at a time.
        stop: see :func:`flagai.generation.generate`.

    Raises:
        InputError: the options or a prompt do not go with the model; nothing was generated then.
    """
    hooks: dict[str, Any] = {"logits_processors": logits_processors, "stop": stop}
    windows = list(_windows(model, prompts, decoding))
    if len(windows) < 2:
        return generate(model, prompts, decoding, **hooks)
    check(model, decoding_of(model, prompts), prompts, decoding)
    found: dict[int, list[Hypothesis]] = {}
    for rows in windows:
        seeds = None if decoding.seeds is None else tuple(decoding.seeds[row] for row in rows)
        part = generate(model, [prompts[row] for row in rows], replace(decoding, seeds=seeds), **hooks)
        found.update(zip(rows, part, strict=True))
    return [found[row] for row in range(len(prompts))]


def seeds_for(model: BaseModel, given: Any, count: int) -> tuple[Any, ...]:
    """One seed per text, so that an answer depends neither on its window nor on its neighbours.

    Raises:
        InputError: there is not one seed per text.
    """
    if given is None:
        drawn = torch.randint(_MOST_SEEDS, [count])
        return tuple((drawn if model.sharding is None else model.sharding.broadcast(drawn)).tolist())
    if not isinstance(given, list | tuple) or len(given) != count:
        raise InputError(f"seeds is {given!r:.80}; expected a list with one seed for each of the {count} texts.")
    return tuple(given)


def _windows(model: GenerativeModel, prompts: Sequence[Prompt], decoding: Decoding) -> Iterator[list[int]]:
    """Rows of prompts sorted by length, the longest first, as many together as the memory allows."""
    budget = _budget(next(model.parameters()).device)
    window: list[int] = []
    for row in sorted(range(len(prompts)), key=lambda row: -len(prompts[row].ids)):
        # Rows are padded to the first one, which is the longest.
        if window and (len(window) + 1) * _bytes(model, prompts[window[0]], decoding) > budget:
            yield window
            window = []
        window.append(row)
    if window:
        yield window


def _bytes(model: GenerativeModel, prompt: Prompt, decoding: Decoding) -> int:
    """What a prompt and its answers take: keys and values of every token, and logits of the newest ones."""
    backbone: Any = model.backbone
    lanes = decoding.lanes
    tokens = len(prompt.ids) + lanes * decoding.max_new_tokens * max(len(prompt.blanks), 1)
    numbers = 2 * backbone.new_cache().num_layers * backbone.hidden_width
    cache = tokens * numbers * next(model.parameters()).element_size()
    seen = lanes * tokens  # a byte for each that a lane may see
    return int(cache + seen + lanes * model.config.vocab_size * 4 * _LOGITS)


def _budget(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_BYTES
    return int(torch.cuda.get_device_properties(device).total_memory) // _GPU_SHARE
