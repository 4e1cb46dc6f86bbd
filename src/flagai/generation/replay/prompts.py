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
from flagai.generation.replay.cuda_graph import GraphedFunction, Recorder
from flagai.model.layer.kernel_choice import jit_kernels
from flagai.model.layer.packed_row import PackedRow, on_device
from flagai.model.layer.paged_cache import PagedCache, PagedStep
from flagai.model.layer.sdpa import AttentionMask

# Tokens of a captured call; with more, the device takes longer than the host.
_TOKENS = (64, 128, 256, 512, 1024)
# Texts of a captured call, that of missing tokens not counted.
_TEXTS = 8


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

    @classmethod
    def of(cls, protocol: DecodingProtocol, prompts: PromptTokens, *, jit: bool) -> Self | None:
        """The smallest that takes these prompts; None if none does."""
        takes = not (len(prompts.past) or prompts.keeps_hidden or protocol.encoder) and len(prompts.lengths) <= _TEXTS
        size = next((each for each in _TOKENS if each >= prompts.tokens.shape[1]), None)
        return None if size is None or not takes else cls(protocol, size, jit)


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
        self._inputs = torch.zeros(3 * key.tokens + _TEXTS + 2, dtype=torch.long, device=device)
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
