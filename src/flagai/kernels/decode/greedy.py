"""The step of a greedy search on a GPU: a choice, and all that follows from it, in two kernels instead of fifty."""

from typing import Any, cast

import torch

from flagai.generation.decoding_state import DecodingState
from flagai.generation.replay.forward import RecordedForward
from flagai.generation.sampling import SamplingSearch
from flagai.generation.search import Search, search_step
from flagai.generation.types import StepOutput
from flagai.kernels.hardware import has_triton_half, next_power_of_2, pdl_options
from flagai.parallel.dtensor import is_sharded

# Rows that one thread block takes.
_MOST_ROWS = 32
# Tokens that a thread block compares, and how many such blocks a row may have.
FEWEST_COMPARED, _CHUNKS = 1024, 64
# Forbidden ids are looked for one after the other.
_MOST_BANNED = 16


def _suits(search: Search, output: StepOutput) -> bool:
    state, processors, logits = search.state, search.processors, output.logits
    return (
        type(search) is SamplingSearch
        and type(state) is DecodingState
        and isinstance(state.recorded, RecordedForward)
        and state.lanes == 1
        and len(state.ids) <= _MOST_ROWS
        and not search.decoding.do_sample
        and search.recordable
        and processors.only_bans
        and len(processors.banned) <= _MOST_BANNED
        # Ranks that share a model would have to agree about what has been compiled.
        and state.model.sharding is None
        and not is_sharded(logits)
        and logits[:, 0].is_contiguous()
        and has_triton_half(logits.device, logits.dtype)
    )


@search_step.faster(_suits, jit=True)
def greedy_step(search: Search, output: StepOutput) -> None:
    """See :func:`search_step`; everything is changed in place."""
    from flagai.kernels.triton.greedy import append_kernel, argmax_kernel

    search, logits = cast(SamplingSearch, search), output.logits[:, 0]
    state, banned, pdl = search.state, search.processors.banned, pdl_options(logits.device)
    (batch, vocabulary), chunk = logits.shape, _chunk(logits.shape[1])
    chunks = -(-vocabulary // chunk)
    parts = logits.new_empty(3, batch, chunks, dtype=torch.float32)
    firsts = logits.new_empty(batch, chunks, dtype=torch.int32)
    argmax_kernel[(chunks, batch)](
        logits,
        banned,
        parts,
        firsts,
        vocabulary,
        len(banned),
        CHUNK=chunk,
        PDL=pdl["PDL"],  # for the next kernel: this one waits for the model's forward pass
    )
    append_kernel[(1,)](
        parts=parts,
        firsts=firsts,
        **{
            name: tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor
            for name, tensor in _tensors(search).items()
        },
        B=batch,
        CHUNKS=chunks,
        **_constants(state),
        BP=next_power_of_2(batch),
        CP=next_power_of_2(chunks),
        SPANS=state.protocol.spans,
        **pdl,
    )


def _tensors(search: SamplingSearch) -> dict[str, torch.Tensor]:
    """What the second kernel reads and writes, by the names that it has there."""
    state = search.state
    inputs = cast(RecordedForward, state.recorded).inputs
    tensors = {
        "write_index": state.cache.write_index,
        "next_ids": inputs.ids,
        "next_position": inputs.position,
        "next_block_position": inputs.block_position,
        "next_ancestors": inputs.ancestors,
    }
    beams = ("span_length", "position", "block_position", "blank_index", "tokens", "ancestors")
    for owner, names in (
        (search, ("score", "kept", "length", "ended", "stopped", "done")),
        (state.beams, beams),
        (state, ("token_index", "last_blank", "blanks", "stop_token_ids")),
    ):
        tensors |= {name: getattr(owner, name) for name in names}
    return tensors


def _constants(state: DecodingState) -> dict[str, Any]:
    """What is the same at every step."""
    return {
        "STOPS": len(state.stop_token_ids),
        "MOST": state.decoding.max_new_tokens,
        "STEPS": state.steps,
        "CAPACITY": state.cache.capacity,
        "BLANKS": state.blanks.shape[1],
        "START": state.start_id or 0,
        "CLOSING": state.decoding.stop_token_ids[0] if state.protocol.spans else 0,
        "HIGHEST": (state.max_positions or 2) - 1,
    }


def _chunk(vocabulary: int) -> int:
    return max(FEWEST_COMPARED, next_power_of_2(-(-vocabulary // _CHUNKS)))
