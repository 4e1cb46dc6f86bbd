"""Slots for requests: of their prompts, and of the tokens to come, a few at a time."""

from collections.abc import Iterable
from typing import Any

from flagai.errors import InputError
from flagai.families.family import DecodingProtocol
from flagai.generation.blocks import BLOCK, slots_of
from flagai.generation.memory import CacheMemory
from flagai.generation.request import Request, Running
from flagai.model.layer.paged_cache import SCRATCH

# Blocks that a lane gets at a time.
_AHEAD = 2


def most_blocks(request: Request) -> int:
    """How many blocks a request takes at most."""
    return first_blocks(request, whole=True)


def first_blocks(request: Request, *, whole: bool) -> int:
    """How many blocks a request must get to begin.

    Args:
        request: the request.
        whole: see :func:`allocate`.
    """
    return -(-len(request.prompt.ids) // BLOCK) + request.own_lanes * _blocks_of_steps(request, 0, whole=whole)


def expected_blocks(requests: Iterable[Request], most_lanes: int) -> int:
    """How many blocks the first of these requests take at most, which run at once.

    Args:
        requests: the requests.
        most_lanes: how many tokens a step has.
    """
    lanes, blocks = 0, 0
    for request in requests:
        lanes += request.lanes
        if blocks and lanes > most_lanes:
            break
        blocks += most_blocks(request)
    return blocks


def allocate(
    request: Request, memory: CacheMemory, protocol: DecodingProtocol, config: Any, *, whole: bool
) -> Running | None:
    """Give a request the blocks of its prompt and its first steps; None if there are not so many.

    Args:
        request: the request.
        memory: the cache.
        protocol: how the family decodes.
        config: of the model.
        whole: for all steps at once, so that they are in one piece, which a CPU reads without copying.
    """
    length = len(request.prompt.ids)
    prompt, own = -(-length // BLOCK), _blocks_of_steps(request, 0, whole=whole)
    blocks = memory.take(first_blocks(request, whole=whole))
    if blocks is None:
        return None
    stretch = slots_of(blocks)
    slots = stretch[:length]
    if protocol.masks_padding and config.pad_token_id is not None:
        pad = config.pad_token_id
        slots = [SCRATCH if token == pad else slot for token, slot in zip(request.prompt.ids, slots, strict=True)]
    if whole:
        # Step by step, so that what the lanes have used so far lies in one piece behind the prompt.
        lanes = [stretch[length + lane :: request.own_lanes][: own * BLOCK] for lane in range(request.own_lanes)]
    else:
        lanes = [slots_of(blocks[prompt + own * lane :][:own]) for lane in range(request.own_lanes)]
    return Running(request, slots, lanes, blocks)


def extend(running: Running, memory: CacheMemory) -> list[list[int]] | None:
    """Give a request blocks for its next steps; the new slots of each lane, or None if there are not enough blocks."""
    request = running.request
    own = _blocks_of_steps(request, len(running.own_slots[0]), whole=False)
    blocks = memory.take(own * request.own_lanes)
    if blocks is None:
        return None
    new = [slots_of(blocks[own * lane :][:own]) for lane in range(request.own_lanes)]
    running.blocks += blocks
    for lane, slots in zip(running.own_slots, new, strict=True):
        lane += slots
    return new


def needs_slots(running: Running) -> bool:
    """Whether a request has no slots for its next step."""
    fed = running.steps * (1 + running.request.decoding.prompt_lookup_num_tokens)
    return len(running.own_slots[0]) < min(fed + running.request.lanes + 1, running.request.num_slots)


def too_large(request: Request, memory: CacheMemory) -> InputError:
    """What is said of a request that does not fit even alone."""
    return InputError(
        f"A request with {len(request.prompt.ids)} ids, {request.own_lanes} answers or candidates and max_new_tokens "
        f"{request.decoding.max_new_tokens} needs {most_blocks(request) * memory.bytes_per_block} bytes of keys "
        f"and values, but there is memory for {memory.most_blocks * memory.bytes_per_block}. Lower max_new_tokens, "
        "num_beams or num_return_sequences, or shorten the text."
    )


def _blocks_of_steps(request: Request, begun: int, *, whole: bool) -> int:
    missing = request.num_slots - begun
    return -(-(missing if whole else min(missing, _AHEAD * BLOCK)) // BLOCK)
