"""Slots for requests: of their prompts, and of the tokens to come, a few at a time."""

from collections.abc import Iterable
from typing import Any

import numpy as np

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
    slots, lanes, count = stretch[:length], request.own_lanes, own * BLOCK
    if protocol.masks_padding and config.pad_token_id is not None:
        slots = np.where(np.array(request.prompt.ids) == config.pad_token_id, SCRATCH, slots)
    if whole:
        # Step by step, so that what the lanes have used so far lies in one piece behind the prompt.
        return Running(request, slots, stretch[length:][: lanes * count].reshape(count, lanes).T, blocks)
    return Running(request, slots, stretch[prompt * BLOCK :].reshape(lanes, count), blocks)


def extend(running: Running, memory: CacheMemory) -> bool:
    """Give a request blocks for its next steps; False if there are not enough blocks."""
    request, slots = running.request, running.own_slots
    own = _blocks_of_steps(request, slots.shape[1], whole=False)
    blocks = memory.take(own * request.own_lanes)
    if blocks is None:
        return False
    running.blocks += blocks
    running.give(np.concatenate([slots, slots_of(blocks).reshape(request.own_lanes, own * BLOCK)], axis=1))
    return True


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
