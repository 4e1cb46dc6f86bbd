"""The step of a greedy search on a GPU: a choice, and all that follows from it, in two kernels instead of fifty."""

from typing import Any, cast

import torch

from flagai.generation.decoding_state import DecodingState
from flagai.generation.sampling import SamplingSearch
from flagai.generation.search import Search, search_step
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import StepOutput
from flagai.kernels.hardware import has_triton_half, next_power_of_2, pdl_options
from flagai.parallel.dtensor import is_sharded

# Rows that a program appends to.
_ROWS = 32
# Tokens that a thread block compares at least, and how many such blocks a row may have.
FEWEST_COMPARED, _CHUNKS = 1024, 64
# Forbidden ids are looked for one after the other.
_MOST_BANNED = 16


def _suits(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> bool:
    state, processors, logits = search.state, search.processors, output.logits
    return (
        type(search) is SamplingSearch
        and type(state) is DecodingState
        and inputs is not None
        and search.sizes.lanes == 1
        and len(inputs.ids) == search.sizes.rows
        and not search.decoding.do_sample
        and search.recordable
        and processors.only_bans
        and len(processors.banned) <= _MOST_BANNED
        and not is_sharded(logits)
        and logits[:, 0].is_contiguous()
        and has_triton_half(logits.device, logits.dtype)
    )


@search_step.faster(_suits, jit=True)
def greedy_step(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> None:
    """See :func:`search_step`; everything is changed in place."""
    from flagai.kernels.triton.greedy import append_kernel, argmax_kernel

    search, logits, inputs = cast(SamplingSearch, search), output.logits[:, 0], cast(StepInputs, inputs)
    banned, pdl = search.processors.banned, pdl_options(logits.device)
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
    append_kernel[(-(-batch // _ROWS),)](
        parts=parts,
        firsts=firsts,
        **{
            name: tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor
            for name, tensor in _tensors(search, inputs).items()
        },
        B=batch,
        CHUNKS=chunks,
        **_constants(search, inputs),
        BP=min(_ROWS, next_power_of_2(batch)),
        CP=next_power_of_2(chunks),
        SPANS=search.state.protocol.spans,
        **pdl,
    )


_OF_SEARCH = ("score", "kept", "length", "ended", "stopped", "done")
_OF_STATE = (
    "max_new_tokens", "span_length", "position", "block_position", "blank_index", "last_blank", "blanks", "tokens",
    "token_index", "own_slots", "slots", "lengths", "next_ids", "slot_mapping", "stop_token_ids",
)  # fmt: skip
_FED = ("ids", "positions", "generated", "slot_mapping", "slots", "lengths")


def _tensors(search: SamplingSearch, inputs: StepInputs) -> dict[str, torch.Tensor]:
    """What the second kernel reads and writes, by the names that it has there."""
    return {
        **{name: getattr(search, name) for name in _OF_SEARCH},
        **{name: getattr(search.state, name) for name in _OF_STATE},
        **{f"fed_{name}": getattr(inputs, name) for name in _FED},
    }


def _constants(search: SamplingSearch, inputs: StepInputs) -> dict[str, Any]:
    """What is the same at every step."""
    state, rules = search.state, search.state.rules
    return {
        "STOPS": len(state.stop_token_ids),
        "STEPS": state.tokens.shape[2],
        "TABLE": state.slots.shape[2],
        "FED": inputs.slots.shape[1],
        "BLANKS": state.blanks.shape[1],
        "START": state.start_id or 0,
        "CLOSING": state.decoding.stop_token_ids[0] if state.protocol.spans else 0,
        "PAD": -1 if rules.pad_id is None else rules.pad_id,
        "HIGHEST": 2**62 if rules.last_position is None else rules.last_position,
    }


def _chunk(vocabulary: int) -> int:
    return max(FEWEST_COMPARED, next_power_of_2(-(-vocabulary // _CHUNKS)))
