"""All blocks of a decoding step in one persistent kernel; it computes what :mod:`flagai.kernels.decode.block` does.

It is for one token and weights of 8 or 4 bits; blocks of 16 bits take less time in five kernels. They are at least 2048
wide: smaller ones leave SMs without a row of each matrix.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, cast
from weakref import WeakKeyDictionary

import torch

from flagai.kernels.cuda.launch_plan import GROUP, WIDTH, LaunchPlan, bits_of
from flagai.kernels.cuda.nvrtc import CudaKernel, can_compile
from flagai.kernels.decode.common import ACTIVATIONS
from flagai.kernels.eligible import linear_layers
from flagai.model.layer.paged_attention import SlotTable
from flagai.model.layer.paged_cache import PagedCache, PagedStep
from flagai.model.layer.quantized_linear import QuantizedLinear
from flagai.model.layer.sdpa import AttentionMask

logger = logging.getLogger(__name__)
# The activations by their numbers in megakernel/step.cu.
_ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")


class Megakernel:
    """Computes all blocks of a stack, for one token.

    It has no parameters of its own: it reads the blocks' where they are.

    Args:
        blocks: what :func:`whole_stack` accepts.
        plan: how the kernel is launched.
        kernel: compiled for them.
    """

    def __init__(self, blocks: Sequence[Any], plan: LaunchPlan, kernel: CudaKernel) -> None:
        self._blocks = blocks
        self._plan = plan
        self._kernel = kernel
        self._prepared: WeakKeyDictionary[PagedCache, _Prepared] = WeakKeyDictionary()

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, cache: PagedStep) -> torch.Tensor:
        """[1, 1, width] -> [1, 1, width]; ``attn_mask`` has a slot table."""
        first, table = self._blocks[0], cast(SlotTable, attn_mask.table)
        prepared, scale = self._prepare(cache.pool), first.attention.scale
        out = torch.empty_like(hidden)
        self._kernel.run_together(
            self._plan.sms,
            self._plan.threads,
            prepared.addresses,
            hidden.contiguous(),
            out,
            prepared.mailboxes,
            prepared.blocks_done,
            table.slots,
            table.lengths,
            cache.slot_mapping,
            float(first.norm1.eps),
            float(WIDTH**-0.5 if scale is None else scale),
        )
        return out

    def _prepare(self, pool: PagedCache) -> "_Prepared":
        """What the kernel needs of a pool, anew after it has grown."""
        pools = [pool.layer(index) for index in range(len(self._blocks))]
        places = [(keys.data_ptr(), values.data_ptr()) for keys, values in pools]
        prepared = self._prepared.get(pool)
        if prepared is None or prepared.places != places:
            prepared = self._prepared[pool] = _Prepared.of(self._blocks, pools, places, self._plan)
        return prepared


@dataclass(frozen=True)
class _Prepared:
    """What the kernel reads and writes besides its token.

    Args:
        places: addresses of the keys and values of all layers.
        addresses: those and the addresses of all parameters, on the device.
        mailboxes: of thread blocks.
        blocks_done: how many blocks they have computed.
    """

    places: list[tuple[int, int]]
    addresses: torch.Tensor
    mailboxes: torch.Tensor
    blocks_done: torch.Tensor

    @classmethod
    def of(
        cls,
        blocks: Sequence[Any],
        pools: Sequence[tuple[torch.Tensor, torch.Tensor]],
        places: list[tuple[int, int]],
        plan: LaunchPlan,
    ) -> Self:
        """For blocks and a pool."""
        rows = []
        for block, pool in zip(blocks, pools, strict=True):
            layers, norms = linear_layers(block), (block.norm1, block.norm2)
            tensors = [
                *(layer.weight for layer in layers),
                *(getattr(layer, "weight_scale", None) for layer in layers),
                *(layer.bias for layer in layers),
                *(norm.weight for norm in norms),
                *(norm.bias for norm in norms),
                *pool,
            ]
            rows.append([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
        device = pools[0][0].device
        return cls(
            places,
            torch.tensor(rows, dtype=torch.int64, device=device),
            torch.full((2, plan.mailbox), -1, dtype=torch.int16, device=device),
            torch.zeros(1, dtype=torch.int32, device=device),
        )


def whole_stack(blocks: Sequence[Any], rows: int) -> Megakernel | None:
    """What computes blocks in one kernel; None if nothing does.

    Args:
        blocks: those that :class:`flagai.kernels.decode.block.FusedPreNormBlock` computes.
        rows: number of tokens in a step.
    """
    plan = launch_plan(blocks, rows)
    if plan is None:
        return None
    weight, name = blocks[0].norm1.weight, blocks[0].feed_forward.activation_name
    kernel = compiled(plan, name, weight.dtype, weight.device)
    return None if kernel is None else Megakernel(blocks, plan, kernel)


def launch_plan(blocks: Sequence[Any], rows: int) -> LaunchPlan | None:
    """How the kernel is launched for blocks, see :func:`whole_stack`; None if it does not take them."""
    device = blocks[0].norm1.weight.device
    suits = (
        rows == 1
        and can_compile(device)
        and all(map(_has_one_kind_of_weights, blocks))
        and len({_numbers(block) for block in blocks}) == 1
        and _has_square_attention(blocks[0])
        and all(_lies_well(tensor) for block in blocks for tensor in _read_by_lines(block))
        and {parameter.device for block in blocks for parameter in block.parameters()} == {device}
        and LaunchPlan.of(blocks).fits
    )
    return LaunchPlan.of(blocks) if suits else None


@cache
def compiled(plan: LaunchPlan, activation_name: str, dtype: torch.dtype, device: torch.device) -> CudaKernel | None:
    """The kernel; None where it cannot be compiled, which is tried once."""
    activation = _ACTIVATIONS.index(ACTIVATIONS[activation_name])
    options = (*plan.options, ("BFLOAT", int(dtype is torch.bfloat16)), ("ACTIVATION", activation))
    try:
        return CudaKernel.of("megakernel", "step_kernel", options, plan.shared, device)
    except RuntimeError as error:
        logger.warning("Blocks are computed one by one; there is no kernel for all of them here. %s", error)
        return None


def _is_known(layer: Any) -> bool:
    """Whether the kernel knows how a layer's weights lie."""
    return type(layer) is QuantizedLinear and (layer.bits == 8 or layer.group == GROUP)


def _has_one_kind_of_weights(block: Any) -> bool:
    layers = linear_layers(block)
    return len({(type(layer), bits_of(layer)) for layer in layers}) == 1 and all(map(_is_known, layers))


def _numbers(block: Any) -> tuple[Any, ...]:
    """What the kernel is told once for all blocks."""
    attention, norms = block.attention, (block.norm1, block.norm2)
    layers = tuple((layer.out_features, layer.in_features, bits_of(layer)) for layer in linear_layers(block))
    types = tuple((norm.weight.dtype, norm.eps) for norm in norms)
    return layers, types, attention.head_dim, attention.scale, block.feed_forward.activation_name


def _has_square_attention(block: Any) -> bool:
    *squares, up, down = linear_layers(block)
    hidden, inner = block.norm1.weight.numel(), up.out_features
    return (
        all((layer.out_features, layer.in_features) == (hidden, hidden) for layer in squares)
        and (up.in_features, down.out_features, down.in_features) == (hidden, hidden, inner)
        and block.attention.head_dim == WIDTH
        and block.norm1.eps == block.norm2.eps
    )


def _read_by_lines(block: Any) -> Iterator[torch.Tensor]:
    """What is read by 16 bytes and more."""
    for layer in linear_layers(block):
        yield layer.weight
        if type(layer) is QuantizedLinear:
            yield layer.weight_scale
    for norm in (block.norm1, block.norm2):
        yield norm.weight
        yield norm.bias


def _lies_well(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() and tensor.data_ptr() % 16 == 0
