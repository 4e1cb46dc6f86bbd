"""Decoding by replay: a model's step and a search's choice, over tensors that stay where they are."""

import itertools
import weakref
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self, cast

import torch

from flagai.families.family import DecodingProtocol, ModelInputs
from flagai.generation.decoding_state import Scored, Tree
from flagai.generation.replay.compile_ahead import Trial
from flagai.generation.replay.cuda_graph import CudaRecorder, Recorded, Recorder
from flagai.generation.replay.greedy import GreedyChoice, greedy_choice
from flagai.generation.replay.inputs import Inputs
from flagai.generation.search import Search
from flagai.kernels.cuda.whole_stack import unchanged
from flagai.kernels.decode.block import faster_blocks
from flagai.kernels.decode.embeddings import faster_embeddings
from flagai.kernels.eligible import is_hooked
from flagai.model.layer.cache import KVCache
from flagai.model.layer.static_cache import StaticCache, bucket
from flagai.parallel.dtensor import from_shard, local, sharded_logits

# Steps below which a recording is not worth its time: the first is done as it is, the second is recorded.
_WORTH = 4
# Seconds to wait for kernels before steps begin without them. If Triton has compiled them in an earlier process, this
# is enough: then answers never depend on how fast the host is.
_PATIENCE = 1.0
# How many steps of different shapes a model keeps ready.
_KEPT = 4


@dataclass(frozen=True)
class Shape:
    """What a recorded step of a model depends on.

    Args:
        family: how the model is called.
        batch: number of texts, B.
        lanes: number of tokens of each, W.
        apart: whether the texts' tokens stand at positions of their own.
        sharded_logits: whether ranks keep the logits that they compute.
        capacity: slots of the cache.
        memory: slots of the encoder's text; 0 for none.
        places: where the parameters lie: a recording reads them there.
    """

    family: DecodingProtocol
    batch: int
    lanes: int
    apart: bool
    sharded_logits: bool
    capacity: int
    memory: int
    places: tuple[tuple[int, torch.dtype], ...]

    @classmethod
    def of(cls, tree: Tree) -> Self:
        """What the next step of these texts needs."""
        batch, lanes = tree.lanes.position.shape
        first = tree.cache.length
        memory = next((pair[0].shape[2] for pair in tree.cache._cross if pair is not None), 0)
        places = tuple((tensor.data_ptr(), tensor.dtype) for tensor in _tensors(tree.model))
        # The last slots stay free: to a causal mask, the queries stand there.
        capacity = bucket(first + tree.slots + 2 * lanes)
        return cls(
            tree.family,
            batch,
            lanes,
            tree.apart,
            tree.logits_sharded,
            capacity,
            bucket(memory) if memory else 0,
            places,
        )


def _tensors(model: Any) -> Iterator[torch.Tensor]:
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        yield local(tensor)


class ModelStep:
    """One step of a model: the newest tokens in, logits out.

    Args:
        model: the model.
        shape: the sizes of everything.
        like: a cache with the texts in it.
        recorder: what records the step.
    """

    def __init__(self, model: Any, shape: Shape, like: KVCache, recorder: Recorder) -> None:
        self.shape = shape
        self.cache = StaticCache(like, shape.capacity, shape.lanes, shape.memory)
        self._recorder = recorder
        self._trial: Trial | None = None
        self.inputs = Inputs.empty(shape.batch, shape.lanes, shape.capacity, self.cache.now.device)
        self._scored: Scored | None = None
        self._work = Recorded(lambda: self._run(model), recorder)

    @property
    def ready(self) -> bool:
        """Whether it has been recorded."""
        return self._work.ready

    def quicken(self, model: Any, like: KVCache, patience: float | None) -> None:
        """Use faster blocks and embeddings, if there are any, as soon as they have been compiled.

        Args:
            model: the model.
            like: a cache with the texts in it.
            patience: seconds to wait for the compiler now; None for as long as it takes.
        """
        blocks = faster_blocks(model, self.shape.batch * self.shape.lanes)
        self._faster = blocks, faster_embeddings(model)
        if patience is None or not any(self._faster):
            self.cache.faster, self.cache.faster_embeddings = self._faster
            return
        other = ModelStep(model, self.shape, like, self._recorder)
        # All blocks have the same kernels.
        other.cache.faster = [*blocks[:1], *[unchanged] * (len(like._keys) - len(blocks[:1]))]
        other.cache.faster_embeddings = self._faster[1]
        self._trial = Trial(lambda: other._run(model), self.inputs.ids.device)
        self._model = weakref.ref(model)
        self._adopt(patience)

    def _adopt(self, patience: float = 0.0) -> None:
        if self._trial is None or not self._trial.over(patience):
            return
        model = self._model()
        if not self._trial.failed and model is not None:
            self.cache.faster, self.cache.faster_embeddings = self._faster
            self._work = Recorded(lambda: self._run(model), self._recorder)
        self._trial = None

    def run(self) -> Scored:
        """See :class:`StaticStep`; the result is overwritten by the next step."""
        self._adopt()
        self._work()
        return cast(Scored, self._scored)

    def _run(self, model: Any) -> None:
        inputs = self.inputs
        inputs_of_step = ModelInputs(
            inputs.ids,
            inputs.position,
            inputs.block,
            attn_mask=inputs.seen[:, None],
            ragged=self.shape.apart,
            stacked_positions=inputs.both.transpose(0, 1),
        )
        with sharded_logits(self.shape.sharded_logits):
            output = model(**self.shape.family.arguments(model, inputs_of_step), cache=self.cache)
        logits, hidden = output["logits"], output["hidden_states"]
        if self._scored is None:
            self._scored = Scored(from_shard(torch.empty_like(local(logits)), logits), torch.empty_like(hidden))
        # By kernels: what a graph has as a copy may be left to another engine of the GPU, which takes longer to begin.
        torch.mul(local(logits), 1, out=local(self._scored.logits))
        torch.mul(hidden, 1, out=self._scored.hidden)


class Choosing:
    """A search's choice and the growth of the tree; what it changes is put back to where it was found.

    Args:
        search: the search, after its first choice: all lanes are there.
        scored: where each step's results are.
        steps: the steps of the model.
    """

    def __init__(self, search: Search, scored: Scored, steps: "StaticSteps") -> None:
        self._search = search
        self._scored = scored
        self._kept = [
            (owner, name, getattr(owner, name).clone(memory_format=torch.contiguous_format))
            for owner, names in search.holders()
            for name in names
        ]
        for owner, name, tensor in self._kept:
            setattr(owner, name, tensor)
        self._recorder = steps.recorder(search.tree.device)
        self._work = Recorded(self._choose, self._recorder)
        self._trial: Trial | None = None
        self._kernels = greedy_choice(search, scored)
        if self._kernels is not None:
            self._trial = steps.trial(self._kernels)
            self._adopt(_PATIENCE)

    def _adopt(self, patience: float | None = 0.0) -> None:
        """Choose by kernels as soon as they have been compiled."""
        if self._trial is None or not self._trial.over(patience):
            return
        if not self._trial.failed and self._kernels is not None:
            self._work = Recorded(self._kernels, self._recorder)
        self._trial = None

    def __call__(self) -> None:
        """Choose, grow, and feed the newest tokens to the model's step."""
        self._adopt()
        count = self._search.tree.count + 1
        self._work()
        self._search.tree.count = count

    def _choose(self) -> None:
        self._search.grow(self._scored)
        self._search.tree.feed()
        # Together, one kernel for each type instead of one for each tensor.
        moved: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for owner, name, tensor in self._kept:
            new = getattr(owner, name)
            if new is not tensor:
                kept, found = moved.setdefault(tensor.dtype, ([], []))
                kept.append(tensor)
                found.append(new)
                setattr(owner, name, tensor)
        for kept, found in moved.values():
            torch._foreach_copy_(kept, found)


class StaticSteps:
    """The recorded steps of one model, kept for the next texts; goes with the model."""

    def __init__(self) -> None:
        self._ready: list[ModelStep] = []
        self._trials: dict[Hashable, Trial] = {}
        self._recorders: dict[torch.device, Recorder] = {}
        self._taking = Lock()
        # A process group that graphs still use waits for them for ever when the interpreter closes it.
        weakref.finalize(self, self._ready.clear)

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """A copy of a model, in memory or in a file, begins without recordings."""
        return type(self), ()

    @property
    def count(self) -> int:
        """How many are kept."""
        return len(self._ready)

    def recorder(self, device: torch.device) -> Recorder:
        """What records this model's steps on a device; a model may move from one to another."""
        if device not in self._recorders:
            self._recorders[device] = recorder_for(device)
        return self._recorders[device]

    def trial(self, choice: GreedyChoice) -> Trial:
        """The trial of a choice's kernels, which is made once."""
        if choice.kernels not in self._trials:
            self._trials[choice.kernels] = Trial(choice.elsewhere(), choice.logits.device)
        return self._trials[choice.kernels]

    @contextmanager
    def lend(self, tree: Tree) -> Iterator[ModelStep]:
        """A step for these texts, which nobody else uses meanwhile."""
        shape, sharding = Shape.of(tree), tree.model.sharding
        step = self._take(shape)
        if sharding is not None and not sharding.all_agree(step is not None):
            step = None  # all ranks begin anew where one has to
        if step is None:
            step = ModelStep(tree.model, shape, tree.cache, self.recorder(tree.device))
            # Processes that share a model must all take the same way.
            step.quicken(tree.model, tree.cache, _PATIENCE if sharding is None else None)
        step.cache.load(tree.cache)
        try:
            yield step
        finally:
            # One that was never recorded holds the model, which holds us.
            if step.ready:
                with self._taking:
                    self._ready[:] = [*self._ready, step][-_KEPT:]

    def _take(self, shape: Shape) -> ModelStep | None:
        with self._taking:
            step = next((step for step in self._ready if step.shape == shape), None)
            # Those that read parameters where they are no longer will never fit again.
            self._ready[:] = [
                other for other in self._ready if other.shape.places == shape.places and other.shape != shape
            ]
        return step


def steps_of(model: Any) -> StaticSteps:
    """The recorded steps that belong to a model."""
    found: StaticSteps = model.__dict__.setdefault("static_steps", StaticSteps())
    return found


def recorder_for(device: torch.device) -> Recorder:
    """What records work of a device."""
    return CudaRecorder(device)


def can_record(device: torch.device) -> bool:
    """Whether work of a device can be recorded."""
    return device.type == "cuda"


def suits(search: Search) -> bool:
    """Whether these texts are better decoded by replay; asked when all lanes are there."""
    tree = search.tree
    return (
        records(tree)
        # A few tokens of a tiny vocabulary give fewer lanes at first than later.
        and tree.lanes.position.shape[1] == tree.width
        and tree.width * (2 + len(tree.decoding.stop_token_ids)) <= tree.model.config.vocab_size
    )


def records(tree: Tree) -> bool:
    """Whether steps of these texts may be recorded, and are worth it.

    Ranks that share a model must all replay or all not, or they would wait for each other: they vote.
    """
    sharding = tree.model.sharding
    wish = (
        tree.decoding.cuda_graphs
        and can_record(tree.device)
        and tree.limit >= _WORTH
        # FSDP gathers parameters into new memory at every step.
        and (sharding is None or sharding.fsdp is None)
        # A replay calls nobody, and goes on doing what somebody did who has left since.
        and not any(map(is_hooked, tree.model.modules()))
        and not torch.is_autocast_enabled(tree.device.type)
    )
    return wish if sharding is None else sharding.all_agree(wish)
