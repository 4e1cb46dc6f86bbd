"""All blocks of a decoding step in one persistent kernel; it computes what :mod:`flagai.kernels.decode.block` does.

It is for one token and for large blocks: smaller ones are read before SMs have exchanged their results.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, cast

import torch
from torch import nn

from flagai.kernels.cuda.nvrtc import CudaKernel, Options, can_compile
from flagai.kernels.decode.common import ACTIVATIONS
from flagai.kernels.eligible import linear_layers
from flagai.kernels.hardware import HALF
from flagai.model.layer.linear import Linear
from flagai.model.layer.quantized_linear import QuantizedLinear
from flagai.model.layer.sdpa import AttentionMask
from flagai.model.layer.static_cache import StaticCache

logger = logging.getLogger(__name__)
# What follows is as in megakernel/: the activations by their numbers in step.cu, the rest as in layout.cuh,
_ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")
# a tile's rows and the bytes of each, numbers that share a scale, features of a head,
_ROWS, _ROW_BYTES, _GROUP, _WIDTH = 4, 2048, 128, 64
# threads that compute and, by the bits of a weight, that fetch,
_THREADS, _FETCHERS = 512, {4: 64, 8: 32, 16: 32}
# bytes of a tile's two barriers, of its results, of a block's addresses, and of the rest.
_BARRIERS, _RESULTS, _ADDRESSES, _REST = 16, 256, 192, 16 * _THREADS + 128
# Tiles in flight on an SM, by the bits of a weight. With fewer the memory idles; with more, all other loads wait.
_IN_FLIGHT = {4: 3, 8: 5, 16: 6}
# Tiles in the ring below which it would run empty whenever sms wait for each other.
_LEAST_RING = 12


@dataclass(frozen=True)
class LaunchPlan:
    """How the kernel is launched for a stack of blocks and a GPU.

    Args:
        hidden: size of the hidden states.
        inner: size between the feed-forward layer's matrices.
        blocks: how many there are.
        bits: of a weight.
        sms: streaming multiprocessors of the GPU.
        memory: bytes of shared memory that a thread block may have.
    """

    hidden: int
    inner: int
    blocks: int
    bits: int
    sms: int
    memory: int

    @classmethod
    def of(cls, blocks: Sequence[Any]) -> Self:
        """For blocks that are alike, on their GPU."""
        weight, up = blocks[0].norm1.weight, blocks[0].feed_forward.up
        gpu: Any = torch.cuda.get_device_properties(weight.device)
        memory = gpu.shared_memory_per_block_optin
        return cls(weight.numel(), up.out_features, len(blocks), _bits(up), gpu.multi_processor_count, memory)

    @property
    def fits(self) -> bool:
        """Whether the kernel can be launched like that."""
        return (
            self.hidden % (8 * _THREADS) == 0
            and self._length & (self._length - 1) == 0
            and self.inner % self.hidden == 0
            # Every program has a part of every result.
            and self.sms <= self.hidden // _ROWS
            # Every thread finishes a row at most.
            and -(-3 * self.hidden // _ROWS // self.sms) * _ROWS <= _THREADS
            and self.ring >= _LEAST_RING
        )

    @property
    def tiles(self) -> int:
        """The most tiles of a matmul that an SM takes."""
        rows = -(-self.hidden // _ROWS // self.sms)
        return rows * self._length * max(3, self.inner // self.hidden)

    @property
    def threads(self) -> int:
        """Threads of a program."""
        return _THREADS + _FETCHERS[self.bits]

    @property
    def _length(self) -> int:
        """Tiles that make up rows of a matrix."""
        return self.hidden * self.bits // 8 // _ROW_BYTES

    @property
    def _slot(self) -> int:
        """Bytes of a tile in the ring, with what goes with it."""
        steps = 4 * 2 * _ROW_BYTES // _GROUP if self.bits == 4 else 0
        return _ROWS * (_ROW_BYTES + steps) + _BARRIERS

    @property
    def _around(self) -> int:
        """Bytes of shared memory besides the ring: a token's numbers, digits and scales, results, addresses."""
        token = 2 * self.hidden + 8 * self.hidden // _GROUP
        return token + _RESULTS * self.tiles + _ADDRESSES * self.blocks + _REST

    @property
    def ring(self) -> int:
        """Tiles in the ring."""
        return (self.memory - self._around) // self._slot

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a program."""
        return self._around + self.ring * self._slot

    @property
    def options(self) -> Options:
        """What the kernel's source leaves open, without what blocks say."""
        return (
            ("HIDDEN", self.hidden),
            ("INNER", self.inner),
            ("HEADS", self.hidden // _WIDTH),
            ("BLOCKS", self.blocks),
            ("BITS", self.bits),
            ("TILES", self.tiles),
            ("RING", self.ring),
            ("IN_FLIGHT", _IN_FLIGHT[self.bits]),
            ("SHARED", self.shared),
        )


class Megakernel:
    """Computes all blocks of a stack, for one token over one static cache.

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
        # The addresses of everything, the mailboxes of thread blocks, and how many blocks they have computed.
        self._prepared: tuple[torch.Tensor, ...] = ()

    def __call__(self, hidden: torch.Tensor, attn_mask: AttentionMask, cache: StaticCache) -> torch.Tensor:
        """[1, 1, width] -> [1, 1, width]; ``attn_mask`` has booleans, [1, 1, 1, capacity]."""
        first = self._blocks[0]
        if not self._prepared:
            self._prepared = self._prepare(cache)
        addresses, mailboxes, blocks_done = self._prepared
        seen, scale = cast(torch.Tensor, attn_mask.tensor).view(torch.uint8), first.attention.scale
        out = torch.empty_like(hidden)
        self._kernel.run_together(
            self._plan.sms,
            self._plan.threads,
            addresses,
            hidden.contiguous(),
            out,
            mailboxes,
            blocks_done,
            seen,
            cache.write_index,
            seen.shape[-1],
            float(first.norm1.eps),
            float(_WIDTH**-0.5 if scale is None else scale),
        )
        return out

    def _prepare(self, cache: StaticCache) -> tuple[torch.Tensor, ...]:
        rows = []
        for index, block in enumerate(self._blocks):
            layers, norms = linear_layers(block), (block.norm1, block.norm2)
            tensors = [
                *(layer.weight for layer in layers),
                *(getattr(layer, "weight_scale", None) for layer in layers),
                *(layer.bias for layer in layers),
                *(norm.weight for norm in norms),
                *(norm.bias for norm in norms),
                *cache.buffers(index),
            ]
            rows.append([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
        device = cache.write_index.device
        return (
            torch.tensor(rows, dtype=torch.int64, device=device),
            torch.full((2, 6 * self._plan.hidden + self._plan.inner), -1, dtype=torch.int16, device=device),
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


def _bits(layer: Any) -> int:
    return layer.bits if type(layer) is QuantizedLinear else 16


def _is_known(layer: Any) -> bool:
    """Whether the kernel knows how a layer's weights lie."""
    if type(layer) is QuantizedLinear:
        return layer.bits == 8 or layer.group == _GROUP
    return type(layer) is Linear and type(layer.weight) is nn.Parameter and layer.weight.dtype in HALF


def _has_one_kind_of_weights(block: Any) -> bool:
    layers = linear_layers(block)
    return len({(type(layer), _bits(layer)) for layer in layers}) == 1 and all(map(_is_known, layers))


def _numbers(block: Any) -> tuple[Any, ...]:
    """What the kernel is told once for all blocks."""
    attention, norms = block.attention, (block.norm1, block.norm2)
    layers = tuple((layer.out_features, layer.in_features, _bits(layer)) for layer in linear_layers(block))
    types = tuple((norm.weight.dtype, norm.eps) for norm in norms)
    return layers, types, attention.head_dim, attention.scale, block.feed_forward.activation_name


def _has_square_attention(block: Any) -> bool:
    *squares, up, down = linear_layers(block)
    hidden, inner = block.norm1.weight.numel(), up.out_features
    return (
        all((layer.out_features, layer.in_features) == (hidden, hidden) for layer in squares)
        and (up.in_features, down.out_features, down.in_features) == (hidden, hidden, inner)
        and block.attention.head_dim == _WIDTH
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
