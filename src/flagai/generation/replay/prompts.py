"""The reading of short prompts, captured as CUDA graphs: the host then costs less than the device.

A graph has a fixed number of tokens and texts. Missing tokens form one more text, whose keys go to the scratch slot.
"""

import weakref
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch

from flagai.families.family import DecodingProtocol
from flagai.generation.forward import PromptTokens, prompt_forward
from flagai.generation.protocol import decoder_blocks
from flagai.generation.replay.cuda_graph import GraphedFunction, Recorder
from flagai.model.layer.kernel_choice import jit_kernels
from flagai.model.layer.packed_row import PackedRow, on_device
from flagai.model.layer.paged_cache import PagedCache, PagedStep
from flagai.model.layer.sdpa import AttentionMask

# Tokens of the smallest captured call, and of the largest one of a model of any size.
_FEWEST, _MOST = 64, 1024
# What a host takes for a block of layers, and what a device computes meanwhile.
_SECONDS, _FLOPS = 3e-4, 4e14


def most_tokens(model: Any) -> int:
    """Tokens of the largest captured call: with more, the device takes longer than the host."""
    parameters = sum(parameter.numel() for parameter in decoder_blocks(model)[0].parameters())
    return max(_MOST, int(_SECONDS * _FLOPS / (2 * max(parameters, 1))))


@dataclass(frozen=True)
class PromptKey:
    """What a captured call depends on.

    Args:
        protocol: how the model is called.
        tokens: number of tokens, T.
        jit: whether kernels that are compiled when they are used are allowed.
    """

    protocol: DecodingProtocol
    tokens: int
    jit: bool

    @property
    def texts(self) -> int:
        """Number of texts, that of missing tokens not counted."""
        return max(self.tokens // 16, 16)

    @classmethod
    def of(cls, protocol: DecodingProtocol, prompts: PromptTokens, most: int, *, jit: bool) -> Self | None:
        """The smallest that takes these prompts; None if none does.

        Args:
            protocol: how the model is called.
            prompts: the prompts.
            most: see :func:`most_tokens`.
            jit: whether kernels that are compiled when they are used are allowed.
        """
        if len(prompts.past) or prompts.keeps_hidden or protocol.encoder:
            return None
        count = prompts.tokens.shape[1]
        tokens = max(1 << (count - 1).bit_length(), _FEWEST)
        tokens = tokens * 3 // 4 if tokens > _FEWEST and count <= tokens * 3 // 4 else tokens
        key = cls(protocol, tokens, jit)
        return key if tokens <= most and len(prompts.lengths) <= key.texts else None


class CapturedPrompts:
    """Reads prompts of one size: as they are at first, then captured, then replayed.

    Args:
        model: the model.
        key: the size.
        pool: the keys and values, which has been written before.
        recorder: captures graphs.
    """

    def __init__(self, model: Any, key: PromptKey, pool: PagedCache, recorder: Recorder) -> None:
        self._key = key
        self._pool = pool
        self._model = weakref.ref(model)
        device = next(model.parameters()).device
        # Ids, positions and slots, [T] each, and where texts begin: together, so that one copy brings all.
        self._inputs = torch.zeros(3 * key.tokens + key.texts + 2, dtype=torch.long, device=device)
        self._graph = GraphedFunction(self._run, recorder)

    def read(self, prompts: PromptTokens) -> None:
        """Run the model over prompts."""
        size, count = self._key.tokens, prompts.tokens.shape[1]
        numbers = np.zeros(len(self._inputs), dtype=np.int64)
        numbers[: 3 * size].reshape(3, size)[:, :count] = prompts.tokens
        ends = numbers[3 * size + 1 :]
        ends[:] = size  # missing tokens are one more text, missing texts are empty
        ends[: len(prompts.lengths)] = np.cumsum(prompts.lengths)
        self._inputs.copy_(on_device(numbers, self._inputs.device))
        self._graph()

    def _run(self) -> None:
        size, causal = self._key.tokens, not self._key.protocol.prefix
        ids, positions, slots = self._inputs[: 3 * size].view(3, size)
        row, starts = PackedRow((size,)), self._inputs[3 * size :].int()
        mask = AttentionMask(packed=row, causal=causal, cu_seqlens=starts, static=True)
        with jit_kernels(self._key.jit):
            prompt_forward(
                cast(Any, self._model()), self._key.protocol, PagedStep(self._pool, slots, mask), ids, positions
            )
