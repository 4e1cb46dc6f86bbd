"""A model's forward pass over the last tokens, captured as a CUDA graph."""

import itertools
import weakref
from dataclasses import dataclass
from typing import Any, Self, cast

import torch

from flagai.families.family import DecodingProtocol, ModelInputs
from flagai.generation.decoding_state import DecodingState
from flagai.generation.replay.compile_ahead import BackgroundCompile
from flagai.generation.replay.cuda_graph import GraphedFunction, Recorder
from flagai.generation.types import BeamState, StepOutput
from flagai.model.layer.cache import KVCache
from flagai.model.layer.kernel_choice import allowed_kernels, jit_kernels
from flagai.model.layer.static_cache import StaticCache, bucket
from flagai.parallel.dtensor import from_shard, local, sharded_logits


@dataclass(frozen=True)
class StepKey:
    """What a captured forward pass depends on.

    Args:
        protocol: how the model is called.
        batch: number of rows, B.
        width: number of beams of each, W.
        ragged: whether the rows' tokens stand at positions of their own.
        sharded_logits: whether ranks keep the logits that they compute.
        capacity: slots of the cache.
        memory: slots of the encoder's output; 0 for none.
        addresses: of the parameters: a graph reads them there.
        kernels: which are allowed; None for all.
    """

    protocol: DecodingProtocol
    batch: int
    width: int
    ragged: bool
    sharded_logits: bool
    capacity: int
    memory: int
    addresses: tuple[tuple[int, torch.dtype], ...]
    kernels: frozenset[str] | None

    @classmethod
    def of(cls, state: DecodingState) -> Self:
        """What the next steps of a state need."""
        batch, width = state.beams.position.shape
        cross = (state.cache.layer(index).cross for index in range(state.cache.num_layers))
        memory = next((pair[0].shape[2] for pair in cross if pair is not None), 0)
        tensors = map(local, itertools.chain(state.model.parameters(), state.model.buffers()))
        return cls(
            state.protocol,
            batch,
            width,
            state.ragged,
            state.logits_sharded,
            # The last slots stay free: to a causal mask, the queries stand there.
            bucket(state.cache.length + state.slots + 2 * width),
            bucket(memory) if memory else 0,
            tuple((tensor.data_ptr(), tensor.dtype) for tensor in tensors),
            allowed_kernels(),
        )


@dataclass(frozen=True)
class StaticInputs:
    """What a captured forward pass reads: tensors that keep their addresses.

    Args:
        ids: the last tokens, [B, W].
        both: positions in the text, and GLM's positions inside of a span, [2, B, W].
        ancestors: the slots of the cache that each token attends to, [B, W, capacity].
    """

    ids: torch.Tensor
    both: torch.Tensor
    ancestors: torch.Tensor

    @classmethod
    def empty(cls, batch: int, width: int, capacity: int, device: torch.device) -> Self:
        """Room for them."""
        ids = torch.zeros(batch, width, dtype=torch.long, device=device)
        # An even number of rows: kernels are compiled for addresses that are multiples of 16.
        both = ids.new_zeros(2, batch + batch % 2, width)[:, :batch]
        return cls(ids, both, torch.zeros(batch, width, capacity, dtype=torch.bool, device=device))

    @property
    def position(self) -> torch.Tensor:
        """Positions in the text, [B, W]."""
        return self.both[0]

    @property
    def block_position(self) -> torch.Tensor:
        """Positions inside of a span, [B, W]."""
        return self.both[1]


class RecordedForward:
    """A forward pass over the last tokens: run as it is at first, then captured, then replayed.

    Args:
        model: the model.
        key: the sizes of everything.
        like: a cache with the prompts in it.
        recorder: captures graphs.
    """

    def __init__(self, model: Any, key: StepKey, like: KVCache, recorder: Recorder) -> None:
        self.key = key
        self.cache = StaticCache(like, key.capacity, key.width, key.memory)
        self.inputs = StaticInputs.empty(key.batch, key.width, key.capacity, self.cache.write_index.device)
        self._recorder = recorder
        self._model = weakref.ref(model)
        self._jit = False
        self.kernels: set[str] = set()  # names of the compiled implementations in use
        self._compiling: BackgroundCompile | None = None
        self._output: StepOutput | None = None
        self._graph = GraphedFunction(lambda: self._run(model), recorder)

    @property
    def ready(self) -> bool:
        """Whether it has been captured."""
        return self._graph.ready

    def compile_kernels(self, model: Any, like: KVCache, patience: float | None) -> None:
        """Use the kernels of a step, if any take the model, as soon as they have been compiled.

        Args:
            model: the model.
            like: a cache with the prompts in it.
            patience: seconds to wait for the compiler now; None for as long as it takes.
        """
        if patience is None:
            self._jit = True
            return
        other = RecordedForward(model, self.key, like, self._recorder)
        other._jit = True
        self._compiling = BackgroundCompile(lambda: other._run(model), self.inputs.ids.device)
        self._switch_to_kernels(patience)

    def _switch_to_kernels(self, patience: float = 0.0) -> None:
        if self._compiling is None or not self._compiling.over(patience):
            return
        model = self._model()
        if not self._compiling.failed and model is not None:
            self._jit = True
            self._graph = GraphedFunction(lambda: self._run(model), self._recorder)
        self._compiling = None

    def put(self, ids: torch.Tensor, beams: BeamState) -> None:
        """See :class:`~flagai.generation.types.StaticForward`."""
        self.inputs.ids.copy_(ids)
        self.inputs.position.copy_(beams.position)
        self.inputs.block_position.copy_(beams.block_position)
        self.inputs.ancestors.copy_(beams.ancestors)

    def run(self) -> StepOutput:
        """See :class:`~flagai.generation.types.StaticForward`; the next pass overwrites the result."""
        self._switch_to_kernels()
        self._graph()
        return cast(StepOutput, self._output)

    def _run(self, model: Any) -> None:
        inputs = self.inputs
        model_inputs = ModelInputs(
            inputs.ids,
            inputs.position,
            inputs.block_position,
            attn_mask=inputs.ancestors[:, None],
            ragged=self.key.ragged,
            stacked_positions=inputs.both.transpose(0, 1),
        )
        with sharded_logits(self.key.sharded_logits), jit_kernels(self._jit) as self.kernels:
            output = model(**self.key.protocol.arguments(model, model_inputs), cache=self.cache)
        logits, hidden = output["logits"], output["hidden_states"]
        if self._output is None:
            self._output = StepOutput(from_shard(torch.empty_like(local(logits)), logits), torch.empty_like(hidden))
        # By kernels: the GPU may leave copies in a graph to another engine, which takes longer to begin.
        torch.mul(local(logits), 1, out=local(self._output.logits))
        torch.mul(hidden, 1, out=self._output.hidden)
