"""Steps of searches on a GPU: a choice, and all that follows from it, in two or three kernels instead of hundreds."""

import struct
from typing import Any, cast

import torch

from flagai.generation.beam import BeamSearch
from flagai.generation.decoding_state import DecodingState
from flagai.generation.sampling import SamplingSearch
from flagai.generation.search import Search, search_step
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import StepOutput
from flagai.kernels import hardware
from flagai.kernels.hardware import next_power_of_2, pdl_options
from flagai.parallel.dtensor import is_sharded

# Lanes that a program appends to, unless a text has more.
_LANES = 32
# Tokens that a program compares at least in a greedy search, and how many such programs a lane may have.
FEWEST_COMPARED, _CHUNKS = 1024, 64
# Tokens that a program reads in other searches, if it draws and if not; pieces in which the best are looked for.
DRAWN, CHUNK, PIECE = 1024, 4096, 128
# Forbidden ids are looked for one after the other, and so are the best tokens of a lane, and of a text's beams.
_MOST_BANNED, _MOST_BEST, _MOST_COMPARED = 16, 64, 1024
# The processors of a drawing, in the order that the kernels know.
_ORDER = ("temperature", "top_k", "top_p")


def _takes(search: Search, output: StepOutput, inputs: StepInputs | None) -> bool:
    """Whether a search is captured and has nothing for which the kernels have no place."""
    state, processors, logits = search.state, search.processors, output.logits
    return (
        type(state) is DecodingState
        and inputs is not None
        and len(inputs.ids) == search.sizes.rows * search.sizes.lanes
        and search.recordable
        and not processors.looks_back
        and not search.decoding.min_new_tokens
        and len(processors.banned) <= _MOST_BANNED
        and not is_sharded(logits)
        and logits.flatten(0, 1).is_contiguous()
        and logits.dtype in (torch.float32, *hardware.HALF)
        and hardware.has_triton(logits.device)
    )


def _is_greedy(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> bool:
    # In float32, log-probabilities may be equal where logits are not.
    return (
        type(search) is SamplingSearch
        and search.sizes.lanes == 1
        and not search.decoding.do_sample
        and output.logits.dtype in hardware.HALF
        and search.processors.only_bans
        and _takes(search, output, inputs)
    )


def _draws(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> bool:
    ordered = search.processors.ordered
    return (
        type(search) is SamplingSearch
        and search.decoding.do_sample
        and ordered == tuple(name for name in _ORDER if name in ordered)
        # The best tokens are found one by one; without a limit, a share may need all.
        and ("top_p" not in ordered or "top_k" in ordered)
        and ("top_k" not in ordered or (search.decoding.top_k or 0) <= _MOST_BEST)
        and _takes(search, output, inputs)
    )


def _has_plain_beams(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> bool:
    return (
        type(search) is BeamSearch
        and search.needs_best_only
        and next_power_of_2(search.sizes.lanes) * next_power_of_2(search.groups[0].num_candidates) <= _MOST_COMPARED
        and _takes(search, output, inputs)
    )


@search_step.faster(_is_greedy, jit=True)
def greedy_step(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> None:
    """See :func:`search_step`; everything is changed in place."""
    from flagai.kernels.triton.greedy import argmax_kernel

    logits, banned, pdl = output.logits[:, 0], search.processors.banned, pdl_options(output.logits.device)
    batch, vocabulary = logits.shape
    chunk = max(FEWEST_COMPARED, next_power_of_2(-(-vocabulary // _CHUNKS)))
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
    _append(cast(SamplingSearch, search), cast(StepInputs, inputs), parts, firsts, chunks)


@search_step.faster(_draws, jit=True)
def drawing_step(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> None:
    """The same, drawing each lane's token: the one that :func:`flagai.generation.sampling.sample` draws."""
    from flagai.kernels.triton.scores import draw_best_kernel, draw_kernel

    search, state, ordered = cast(SamplingSearch, search), search.state, search.processors.ordered
    best = min(search.decoding.top_k or 0, output.logits.shape[-1]) if "top_k" in ordered else 0
    heat = getattr(state, "temperature", None) if "temperature" in ordered else None
    read = _Vocabulary(search, output.logits, heat, draws=not best)
    values = output.logits.new_empty(read.lanes, dtype=torch.float32)
    tokens = torch.empty_like(values, dtype=torch.int32)
    numbers = {"W": search.sizes.lanes, "STEPS": search.uniforms.shape[2], "STARTS": int(state.protocol.starts)}
    past = {"uniforms": search.uniforms, "token_index": state.token_index, "temperature": heat}
    shared = {**read.shared, **numbers, **past, "HOT": heat is not None}
    if best:
        share = getattr(state, "top_p", None) if "top_p" in ordered else None
        own = {"COUNT": best, "KP": next_power_of_2(best), "share": share, "SHARE": share is not None}
        draw_best_kernel[(read.lanes,)](values=values, tokens=tokens, **shared, **read.pieces, **own)
    else:
        draw_kernel[(read.lanes,)](values=values, tokens=tokens, masses=read.masses, CHUNK=DRAWN, **shared)
    _append(search, cast(StepInputs, inputs), values, tokens, 0)


@search_step.faster(_has_plain_beams, jit=True)
def beam_step(search: Search, output: StepOutput, inputs: StepInputs | None = None) -> None:
    """The same for one group of beams whose scores are the model's own."""
    from flagai.kernels.triton.beams import beams_kernel
    from flagai.kernels.triton.scores import best_kernel

    search, inputs = cast(BeamSearch, search), cast(StepInputs, inputs)
    (group,), decoding, width = search.groups, search.decoding, search.sizes.lanes
    count, read = group.num_candidates, _Vocabulary(search, output.logits, None, draws=False)
    padded = next_power_of_2(count)
    values = output.logits.new_empty(read.lanes, padded, dtype=torch.float32)
    tokens = torch.empty_like(values, dtype=torch.int32)
    best_kernel[(read.lanes,)](values=values, tokens=tokens, KP=padded, **read.shared, **read.pieces)
    never = decoding.early_stopping == "never"
    of_group = {name: getattr(group, name) for name in _OF_GROUP} | {"group_done": group.done, "done": search.done}
    state = {name: getattr(search.state, name) for name in _OF_BEAMS}
    constants = _constants(search, inputs)
    beams_kernel[(search.sizes.rows,)](
        values=values,
        found=tokens,
        **_as_bytes(of_group | state | _fed(inputs)),
        W=width,
        COUNT=count,
        NEEDED=min(decoding.num_return_sequences, width) if never else width,
        PENALTY=struct.unpack("<q", struct.pack("<d", decoding.length_penalty))[0],
        **{name: constants[name] for name in ("STOPS", "STEPS", "TABLE", "FED", "PAD", "HIGHEST")},
        WP=next_power_of_2(width),
        KP=padded,
        CP=padded,
        EARLY=decoding.early_stopping is True,
        GROWS=never and decoding.length_penalty > 0,
        BLOCK=128,
        **pdl_options(output.logits.device),
    )


class _Vocabulary:
    """What is noted of each part of the vocabulary, and what the next kernel needs of it.

    Args:
        search: the search.
        logits: [R, W, V]
        heat: temperatures of the rows.
        draws: whether the weights of parts are noted, or their best tokens.
    """

    def __init__(self, search: Search, logits: torch.Tensor, heat: torch.Tensor | None, *, draws: bool) -> None:
        from flagai.kernels.triton.scores import parts_kernel

        self.lanes, vocabulary = logits.shape[:2].numel(), logits.shape[2]
        banned, pdl = search.processors.banned, pdl_options(logits.device)
        chunk = DRAWN if draws else CHUNK
        chunks, pieces = -(-vocabulary // chunk), -(-vocabulary // PIECE)
        parts = logits.new_empty(3, self.lanes, chunks, dtype=torch.float32)
        self.masses = logits.new_empty(self.lanes, chunks if draws else 0, dtype=torch.float64)
        bests = logits.new_empty(self.lanes, 0 if draws else pieces, dtype=torch.float32)
        both = {"logits": logits, "banned": banned, "parts": parts, "V": vocabulary, "BANNED": len(banned)}
        both |= {"CHUNKS": chunks, "LANES": self.lanes}
        self.shared = {**both, "CP": next_power_of_2(chunks), **pdl}
        self.pieces = {"bests": bests, "PIECES": pieces, "PIECE": PIECE, "NP": next_power_of_2(pieces)}
        parts_kernel[(chunks, self.lanes)](
            **both,
            temperature=heat,
            masses=self.masses,
            bests=bests,
            W=search.sizes.lanes,
            PIECES=pieces,
            CHUNK=chunk,
            PIECE=PIECE,
            DRAW=draws,
            HOT=heat is not None,
            PDL=pdl["PDL"],  # for the next kernel: this one waits for the model's forward pass
        )


_OF_SEARCH = ("score", "kept", "length", "ended", "stopped", "done")
_OF_GROUP = ("running", "score", "ids", "kept", "stopped", "length", "limit")
_OF_BEAMS = (
    "max_new_tokens", "span_length", "position", "tokens", "token_index", "own_slots", "slots", "lengths", "next_ids",
    "slot_mapping", "stop_token_ids",
)  # fmt: skip
_OF_STATE = (*_OF_BEAMS, "block_position", "blank_index", "last_blank", "blanks")


def _append(search: SamplingSearch, inputs: StepInputs, parts: torch.Tensor, firsts: torch.Tensor, chunks: int) -> None:
    """Record and append tokens: the best of chunks, or, without chunks, those that are given."""
    from flagai.kernels.triton.greedy import append_kernel

    (rows, lanes), state = (search.sizes.rows, search.sizes.lanes), search.state
    padded = next_power_of_2(lanes)
    together = max(1, min(_LANES // padded, next_power_of_2(rows)))
    own = {name: getattr(search, name) for name in _OF_SEARCH} | {name: getattr(state, name) for name in _OF_STATE}
    append_kernel[(-(-rows // together),)](
        parts=parts,
        firsts=firsts,
        **_as_bytes(own | _fed(inputs)),
        B=rows,
        W=lanes,
        CHUNKS=chunks,
        **_constants(search, inputs),
        BP=together,
        WP=padded,
        CP=next_power_of_2(chunks) if chunks else 0,
        SPANS=state.protocol.spans,
        **pdl_options(inputs.ids.device),
    )


def _fed(inputs: StepInputs) -> dict[str, torch.Tensor]:
    """What the next forward pass reads."""
    names = ("ids", "positions", "generated", "slot_mapping", "slots", "lengths")
    return {f"fed_{name}": getattr(inputs, name) for name in names}


def _as_bytes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as the kernels take them: truth values are bytes."""
    return {
        name: tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor for name, tensor in tensors.items()
    }


def _constants(search: Search, inputs: StepInputs) -> dict[str, Any]:
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
