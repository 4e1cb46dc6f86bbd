"""Steps of generation over a paged cache: the arguments that tests compare implementations on, and whole decodings."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from flagai.families.family import ModelInputs
from flagai.generation.batch import new_search, sizes_of
from flagai.generation.beam_group import BeamGroup
from flagai.generation.checks import start_id_of
from flagai.generation.decoding_state import Rules
from flagai.generation.protocol import decoding_of
from flagai.generation.request import Request, Running
from flagai.generation.search import Search, search_step
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import StepOutput
from flagai.kernels.decode.rotary_block import join_gated_projections
from flagai.model.block.stack import BlockStack, cached_blocks
from flagai.model.layer.kernel_choice import only_kernels
from flagai.model.layer.operation import Operation
from flagai.model.layer.packed_row import PackedRow
from flagai.model.layer.paged_attention import SlotTable
from flagai.model.layer.paged_cache import PagedCache, PagedStep
from flagai.model.layer.sdpa import AttentionMask
from flagai.model.quantization import quantize as quantize_model
from tests.generation.writers import writer
from tests.tiny import GATED, build

Arguments = tuple[tuple[Any, ...], dict[str, Any], Callable[[Any], Any]]


class _Captured(Exception):  # noqa: N818 - no error
    pass


def captured(operation: Operation[Any, Any], work: Callable[[], object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the first call of an operation, which is not computed."""

    def spy(*args: Any, **kwargs: Any) -> Any:
        raise _Captured(args, kwargs)

    plain, operation.plain = operation.plain, spy
    try:
        with only_kernels():
            work()
    except _Captured as found:
        args, kwargs = found.args
        return args, kwargs
    finally:
        operation.plain = plain
    raise AssertionError("the operation was not called")


# -- a paged cache --------------------------------------------------------------------------------------------------


def slot_table(lengths: Sequence[int], past: int, *, drafts: bool = False) -> tuple[SlotTable, torch.Tensor]:
    """A table and a slot mapping of tokens that share the slots of a past, in no order, as beams do.

    Args:
        lengths: number of keys of each token, its own included; 0 for a token that fills up a batch.
        past: number of slots that earlier steps have written: 1 to ``past``. The tokens' own come after them.
        drafts: the tokens are of one text: each attends to those before it, too.
    """
    own = [past + 1 + number if length else 0 for number, length in enumerate(lengths)]
    # Behind the last key: any slot.
    slots = torch.randint(past + len(lengths), (len(lengths), max(*lengths, 1) + 3))
    for number, length in enumerate(lengths):
        mine = own[: number + 1] if drafts else own[number : number + 1]
        if length:
            slots[number, : length - len(mine)] = torch.randperm(past)[: length - len(mine)] + 1
            slots[number, length - len(mine) : length] = torch.tensor(mine)
    return SlotTable(slots.int(), torch.tensor(lengths, dtype=torch.int32)), torch.tensor(own)


def paged_step(
    shape: tuple[int, int, int],
    lengths: Sequence[int],
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    drafts: bool = False,
    cross: bool = False,
) -> PagedStep:
    """A step over a pool of random keys and values.

    Args:
        shape: layers, heads, size of a head.
        lengths: see :func:`slot_table`.
        device: of the step.
        dtype: of the pool.
        drafts: see :func:`slot_table`.
        cross: whether the tokens attend to an encoder's output, too.
    """
    past, (layers, heads, width) = max(lengths) + 7, shape
    table, own = slot_table(lengths, past, drafts=drafts)
    pool = PagedCache(layers, 1 + past + len(lengths))
    for pools in (pool.keys, pool.values):
        pools[:] = [torch.randn(pool.num_slots, heads, width).to(device, dtype) for _ in range(layers)]
    masks = [AttentionMask(table=_on(table, device)) for _ in range(2)]
    return PagedStep(pool, own.to(device), masks[0], masks[1] if cross else None)


def _on(table: SlotTable, device: torch.device | str) -> SlotTable:
    return SlotTable(table.slots.to(device), table.lengths.to(device))


def decoder_blocks(model: nn.Module) -> BlockStack:
    """The blocks of a decoder."""
    return [module for module in model.modules() if isinstance(module, BlockStack)][-1]


def step_of(model: nn.Module, lengths: Sequence[int], **more: bool) -> PagedStep:
    """A step over a pool that fits to a model."""
    blocks: Any = decoder_blocks(model)
    attention, norm = blocks[0].attention, blocks[0].norm1
    heads, cross = attention.k.out_features // attention.head_dim, getattr(blocks[0], "cross_attention", None)
    shape = (len(blocks), heads, attention.head_dim)
    return paged_step(shape, lengths, norm.weight.device, norm.weight.dtype, cross=cross is not None, **more)


def run(model: Any, step: PagedStep, ids: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
    """The logits of tokens, [T, V], by a call as the engine makes it."""
    family: Any = import_module(f"flagai.families.{model.config_class.family}")
    device = step.slot_mapping.device
    both = torch.tensor([list(positions), [0] * len(positions)], device=device)[None]
    generated = torch.full((1, len(ids)), step.attn_mask.table is not None, device=device)
    inputs = ModelInputs(torch.tensor([list(ids)], device=device), both, generated)
    logits: torch.Tensor = model(**family.FAMILY.decoding.arguments(model, inputs), cache=step)["logits"][0]
    return logits


def decode(model: Any, prompt: Sequence[int], lanes: int, count: int) -> torch.Tensor:
    """The logits of so many steps of several lanes that share a prompt, read causally, [count, lanes, V].

    The tokens are given, so that differences of rounding do not add up.
    """
    blocks, device = decoder_blocks(model), next(model.parameters()).device
    pool, size = PagedCache(len(blocks), 64), len(prompt)
    slots = 1 + torch.randperm(63)
    packed = AttentionMask(causal=True, packed=PackedRow((size,)))
    run(model, PagedStep(pool, slots[:size].to(device), packed), prompt, range(size))
    table, own = slots[:size].repeat(lanes, 1), slots[size : size + lanes * count].view(count, lanes)
    found = []
    for number, mapping in enumerate(own):
        table = torch.cat([table, mapping[:, None]], dim=1)
        lengths = torch.full((lanes,), size + number + 1, dtype=torch.int32)
        mask = AttentionMask(table=_on(SlotTable(table.int(), lengths), device))
        ids = [3 + (lane + number) % 5 for lane in range(lanes)]
        found.append(run(model, PagedStep(pool, mapping.to(device), mask), ids, [size + number] * lanes))
    return torch.stack(found)


# -- single steps ---------------------------------------------------------------------------------------------------

# The models of single steps: of ordinary weights, so that differences of rounding stay small.
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Model", {}),
    "glm": ("GLMModel", {"spell_length": None}),
    "glm-wide": ("GLMModel", {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "spell_length": None}),
    "bert": ("BertForSeq2seq", {}),
    "t5": ("T5Model", {}),
    "chatglm": ("ChatGLMModel", {}),
    "chatglm2": ("ChatGLM2Model", {}),
    "chatglm2-wide": ("ChatGLM2Model", {"hidden_size": 32, "ffn_hidden_size": 64, "num_layers": 1}),
    "glm4": ("ChatGLM2Model", {"model_type": "glm4", "attention_bias": False, "partial_rotary_factor": 1.0}),
    "t5-gated": ("T5Model", GATED),
}


def decoding_arguments(
    kind: str,
    device: str,
    dtype: torch.dtype,
    lengths: Sequence[int],
    *,
    quantize: str | None = None,
    hooked: bool = False,
    prepared: bool = False,
) -> Arguments:
    """What a step of tokens with so many keys calls :func:`cached_blocks` with."""
    name, changes = _MODELS[kind]
    model = build(name, **changes)
    if quantize is not None:
        quantize_model(model, quantize)
    model.to(device, dtype)
    if prepared:
        join_gated_projections(decoder_blocks(model))
    step = step_of(model, lengths)
    ids, positions = [3 + number % 9 for number in range(len(lengths))], [max(length - 1, 0) for length in lengths]
    args, kwargs = captured(cached_blocks, lambda: run(model, step, ids, positions))
    if hooked:
        next(each for each in args[0].modules() if isinstance(each, nn.LayerNorm)).register_forward_hook(
            lambda *given: given[2] + 1
        )

    def observed(hidden: torch.Tensor) -> list[Any]:
        # The scratch slot has what any of several tokens has left.
        return [hidden, *(pool[1:] for pool in [*step.pool.keys, *step.pool.values] if pool is not None)]

    return args, kwargs, observed


def search_arguments(kind: str, device: str, dtype: torch.dtype, steps: int, options: dict[str, Any]) -> Arguments:
    """What a captured step of a search calls :func:`search_step` with, after some steps over random logits."""
    writing = writer(kind)
    model, decoding, on = writing.model, writing.decoding(**options), torch.device(device)
    requests = [Request(prompt, decoding) for prompt in writing.prompts]
    protocol, last = decoding_of(model, writing.prompts[0]), model.max_positions
    pad = model.config.pad_token_id if protocol.masks_padding else None
    rules = Rules(protocol, decoding, start_id_of(model, protocol, decoding), pad, None if last is None else last - 1)
    sizes = replace(sizes_of(requests, encoder=protocol.encoder), rows=len(requests) + 2)  # two rows stay empty
    search = new_search(sizes, rules, (), on, sharded=False)
    slots = iter(range(1, 10000))
    running = []
    for request in requests:
        own = [list(islice(slots, request.num_slots)) for _ in range(request.own_lanes)]
        text = list(islice(slots, len(request.prompt.ids)))
        running.append(Running(request, np.array(text), np.array(own), []))
    search.start(range(len(requests)), running)
    search.state.captured = True

    def logits() -> torch.Tensor:
        return 4 * torch.randn(sizes.rows, sizes.lanes, model.config.vocab_size, device=on).to(dtype)

    for _ in range(steps):
        search_step.plain(search, StepOutput(logits(), logits()))
    for part in search.parts():
        for name in part.names:
            setattr(part, name, getattr(part, name).clone(memory_format=torch.contiguous_format))
    inputs = copy.deepcopy(search.state.inputs())

    return (search, StepOutput(logits(), logits()), inputs), {}, lambda _: left_by(search, inputs)


def left_by(search: Search, inputs: StepInputs) -> dict[str, torch.Tensor]:
    """What a step of a search has left, and what the next forward pass reads; beams of texts that are done are any."""
    rows = ~search.done | (search.decoding.num_beams == 1)
    lanes = rows.repeat_interleave(search.sizes.lanes)
    found = {
        f"fed {name}": tensor[..., lanes] if name == "positions" else tensor[lanes]
        for name, tensor in vars(inputs).items()
    }
    for part in search.parts():
        for name in part.names:
            tensor = getattr(part, name)
            if isinstance(part, BeamGroup) and name in ("ids", "kept", "stopped"):  # of answers that there are
                nothing = part.score == -torch.inf
                tensor = tensor.masked_fill(nothing[..., None] if name == "ids" else nothing, 0)
            found[f"{name} {type(part).__name__}"] = tensor[rows]
    return found
