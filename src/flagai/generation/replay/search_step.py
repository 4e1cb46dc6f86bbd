"""A search's step (choose, append), captured as a CUDA graph."""

import copy

import torch

from flagai.generation.replay import compile_ahead
from flagai.generation.replay.compile_ahead import BackgroundCompile
from flagai.generation.replay.cuda_graph import GraphedFunction
from flagai.generation.replay.forward import RecordedForward, StaticInputs
from flagai.generation.replay.step_pool import StepPool
from flagai.generation.search import Search, search_step
from flagai.generation.types import StepOutput
from flagai.model.layer.kernel_choice import jit_kernels


class RecordedSearchStep:
    """Computes :func:`search_step`; what it changes is put back at the addresses that it had.

    Args:
        search: the search, after its first choice: it has all beams.
        output: the result of every forward pass.
        pool: the captured steps of the model.
    """

    def __init__(self, search: Search, output: StepOutput, pool: StepPool) -> None:
        self._search = search
        self._output = output
        self._kept = [
            (owner, name, getattr(owner, name).clone(memory_format=torch.contiguous_format))
            for owner, names in search.holders()
            for name in names
        ]
        for owner, name, tensor in self._kept:
            setattr(owner, name, tensor)
        self._jit = False
        self._recorder = pool.recorder(search.state.device)
        self._graph = GraphedFunction(self._step, self._recorder)
        self._compiling = compile_kernels(search, output, pool)
        self._switch_to_kernels(compile_ahead.PATIENCE)

    def __call__(self) -> None:
        """Choose, append, and set what the next forward pass reads."""
        self._switch_to_kernels()
        count = self._search.state.count + 1
        self._graph()
        self._search.state.count = count

    def _switch_to_kernels(self, patience: float | None = 0.0) -> None:
        """Choose by kernels as soon as they have been compiled."""
        if self._compiling is None or not self._compiling.over(patience):
            return
        if not self._compiling.failed:
            self._jit = True
            self._graph = GraphedFunction(self._step, self._recorder)
        self._compiling = None

    def _step(self) -> None:
        with jit_kernels(self._jit):
            search_step(self._search, self._output)
        # Together, one kernel for each dtype instead of one for each tensor.
        moved: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        for owner, name, tensor in self._kept:
            new = getattr(owner, name)
            if new is not tensor:
                kept, values = moved.setdefault(tensor.dtype, ([], []))
                kept.append(tensor)
                values.append(new)
                setattr(owner, name, tensor)
        for kept, values in moved.values():
            torch._foreach_copy_(kept, values)


def compile_kernels(search: Search, output: StepOutput, pool: StepPool) -> BackgroundCompile | None:
    """Compile the kernels of a search's step, once for each shape; None if there are none."""
    with jit_kernels():
        if search_step.choose(search, output) is search_step.plain:
            return None
    logits = output.logits
    key = (logits.device, logits.dtype, *logits.shape, search.state.protocol.spans)
    twin = _twin(search)

    def work() -> None:
        with jit_kernels():
            search_step(twin, output)

    return pool.compiled(key, work, logits.device)


def _twin(search: Search) -> Search:
    """A copy with tensors of its own wherever a step writes."""
    twin = copy.copy(search)
    twin.state = copy.copy(search.state)
    twin.state.beams = copy.copy(search.state.beams)
    for owner, names in twin.holders():
        for name in names:
            setattr(owner, name, getattr(owner, name).clone())
    recorded = copy.copy(search.state.recorded)
    if isinstance(recorded, RecordedForward):
        batch, width, capacity = recorded.inputs.ancestors.shape
        recorded.inputs = StaticInputs.empty(batch, width, capacity, search.state.device)
    twin.state.recorded = recorded
    return twin
