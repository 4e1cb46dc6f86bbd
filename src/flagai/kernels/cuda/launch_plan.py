"""How the kernel of all blocks is launched for a stack of blocks and a GPU, and what it is compiled with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from flagai.kernels.cuda.nvrtc import Options
from flagai.model.layer.quantized_linear import QuantizedLinear

# As in megakernel/layout.cuh: a tile's rows and the bytes of each, numbers that share a scale, features of a head,
_ROWS, _ROW_BYTES = 4, 2048
GROUP, WIDTH = 128, 64
# programs that may share the keys of a head,
_SPLITS = 4
# threads that compute and, by the bits of a weight, that fetch,
_THREADS, _FETCHERS = 512, {4: 64, 8: 32}
# bytes of a tile's two barriers, of its results, of a block's addresses, and of the rest.
_BARRIERS, _RESULTS, _ADDRESSES, _REST = 16, 256, 192, 16 * _THREADS + 128
# Tiles in flight on an SM, by the bits of a weight. With fewer the memory idles; with more, all other loads wait.
_IN_FLIGHT = {4: 3, 8: 5}
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
        return cls(weight.numel(), up.out_features, len(blocks), bits_of(up), gpu.multi_processor_count, memory)

    @property
    def fits(self) -> bool:
        """Whether the kernel can be launched like that."""
        return (
            # Threads take eight numbers at a time: all of them, or those of a few warps.
            (self.hidden % (8 * _THREADS) == 0 or (8 * _THREADS) % self.hidden == 0)
            and self.hidden * self.bits // 8 % _ROW_BYTES == 0
            and self._length & (self._length - 1) == 0
            and self.inner % self.hidden == 0
            # Every program has a part of every result.
            and self.sms <= self.hidden // _ROWS
            # Every thread finishes a row at most.
            and -(-max(3 * self.hidden, self._span) // _ROWS // self.sms) * _ROWS <= _THREADS
            and self.ring >= _LEAST_RING
        )

    @property
    def tiles(self) -> int:
        """The most tiles of a matmul that an SM takes."""
        rows = -(-self.hidden // _ROWS // self.sms)
        return rows * self._length * max(3, self.inner // self.hidden)

    @property
    def mailbox(self) -> int:
        """Values of a mailbox."""
        return (5 + self.splits) * self.hidden + self.inner + 2 * self.splits * (self.hidden // WIDTH)

    @property
    def splits(self) -> int:
        """The most programs that share the keys of a head."""
        return max(1, min(_SPLITS, self.sms * WIDTH // self.hidden))

    @property
    def _span(self) -> int:
        """Numbers of a token that a program has at once."""
        return self.inner if self.inner <= 8 * _THREADS else self.hidden

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
        """Bytes of a tile in the ring, with what belongs to it."""
        steps = 4 * 2 * _ROW_BYTES // GROUP if self.bits == 4 else 0
        return _ROWS * (_ROW_BYTES + steps) + _BARRIERS

    @property
    def _around(self) -> int:
        """Bytes of shared memory besides the ring: a token's numbers, digits and scales, results, addresses."""
        token = 2 * self._span + 8 * self._span // GROUP
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
            ("HEADS", self.hidden // WIDTH),
            ("BLOCKS", self.blocks),
            ("BITS", self.bits),
            ("SPLITS", self.splits),
            ("TILES", self.tiles),
            ("RING", self.ring),
            ("IN_FLIGHT", _IN_FLIGHT[self.bits]),
            ("SHARED", self.shared),
        )


def bits_of(layer: Any) -> int:
    """The bits of a layer's weights."""
    return layer.bits if type(layer) is QuantizedLinear else 16
