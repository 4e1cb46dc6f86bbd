"""A model's forward pass over the last tokens, captured as a CUDA graph."""

import itertools
import weakref
from dataclasses import dataclass
from typing import Any, Self, cast

import torch

from flagai.families.family import DecodingProtocol
from flagai.generation.forward import step_forward
from flagai.generation.replay import compile_ahead
from flagai.generation.replay.compile_ahead import BackgroundCompile, CompiledLater
from flagai.generation.replay.cuda_graph import Recorder
from flagai.generation.step_inputs import StepInputs
from flagai.generation.types import StepOutput
from flagai.model.layer.kernel_choice import allowed_kernels, jit_kernels
from flagai.model.layer.paged_cache import PagedCache
from flagai.parallel.dtensor import from_shard, local


@dataclass(frozen=True)
class Addresses:
    """What every captured forward pass of a model depends on.

    Args:
        tensors: parameters and buffers: a graph reads them there.
        kernels: which are allowed; None for all.
    """

    tensors: tuple[tuple[int, torch.dtype], ...]
    kernels: frozenset[str] | None

    @classmethod
    def of(cls, model: Any) -> Self:
        """Those of a model now."""
        tensors = map(local, itertools.chain(model.parameters(), model.buffers()))
        return cls(tuple((tensor.data_ptr(), tensor.dtype) for tensor in tensors), allowed_kernels())


@dataclass(frozen=True)
class ForwardKey:
    """The sizes of a captured forward pass.

    Args:
        protocol: how the model is called.
        tokens: number of tokens, T.
        table: slots of a token, L.
        cross: slots of an encoder's text; 0 for none.
        sharded: whether ranks keep the logits that they compute.
        lanes: how many neighbouring tokens are of one text.
    """

    protocol: DecodingProtocol
    tokens: int
    table: int
    cross: int
    sharded: bool
    lanes: int


class CapturedForward:
    """A forward pass over the last tokens: run as it is at first, then captured, then replayed.

    Args:
        model: the model.
        key: the sizes.
        pool: the keys and values.
        recorder: captures graphs.
        patience: seconds to wait for kernels to be compiled; None for as long as it takes.
    """

    def __init__(
        self, model: Any, key: ForwardKey, pool: PagedCache, recorder: Recorder, patience: float | None
    ) -> None:
        self.key = key
        device = next(model.parameters()).device
        self.inputs = _empty(key, device)
        self._pool = pool
        self._model = weakref.ref(model)
        self.kernels: set[str] = set()  # names of the compiled implementations in use
        self._output: StepOutput | None = None
        jit = patience is None
        compiling = None if jit else BackgroundCompile(self._trial(model, key, device), device)
        self._work = CompiledLater(self._run, recorder, compiling, jit=jit, patience=patience)

    def _trial(self, model: Any, key: ForwardKey, device: torch.device) -> Any:
        """The same work over empty inputs, which writes only into the scratch slot."""
        inputs = _empty(key, device)

        def run() -> None:
            with jit_kernels():
                step_forward(model, key.protocol, self._pool, inputs, key.sharded, static=True, lanes=key.lanes)

        return run

    def run(self) -> StepOutput:
        """Run the model; the next pass overwrites the result."""
        self._work()
        return cast(StepOutput, self._output)

    def _run(self, jit: bool) -> None:
        key, model = self.key, self._model()
        with jit_kernels(jit) as self.kernels:
            output = step_forward(
                cast(Any, model), key.protocol, self._pool, self.inputs, key.sharded, static=True, lanes=key.lanes
            )
        logits, hidden = output.logits, output.hidden
        if self._output is None:
            self._output = StepOutput(from_shard(torch.empty_like(local(logits)), logits), torch.empty_like(hidden))
        # By kernels: the GPU may leave copies in a graph to another engine, which takes longer to begin.
        torch.mul(local(logits), 1, out=local(self._output.logits))
        torch.mul(hidden, 1, out=self._output.hidden)


def patience_of(model: Any) -> float | None:
    """How long a forward pass waits for its kernels; ranks that share a model use them from the same step on."""
    return compile_ahead.PATIENCE if model.sharding is None else None


def _empty(key: ForwardKey, device: torch.device) -> StepInputs:
    def zeros(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype, device=device)

    tokens, whole = key.tokens, torch.int32
    return StepInputs(
        ids=zeros(tokens),
        positions=zeros(2, tokens),
        generated=zeros(tokens, dtype=torch.bool),
        slot_mapping=zeros(tokens),
        slots=zeros(tokens, key.table, dtype=whole),
        lengths=zeros(tokens, dtype=whole),
        cross_slots=zeros(tokens, key.cross, dtype=whole),
        cross_lengths=zeros(tokens, dtype=whole),
    )
