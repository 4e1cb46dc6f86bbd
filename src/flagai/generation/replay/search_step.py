"""A search's step (choose, append), captured as a CUDA graph."""

import copy
from collections.abc import Hashable

from flagai.generation.replay import compile_ahead
from flagai.generation.replay.compile_ahead import BackgroundCompile, CompiledLater
from flagai.generation.replay.cuda_graph import GraphedFunction, Recorder
from flagai.generation.replay.forward import CapturedForward
from flagai.generation.search import Search, search_step
from flagai.generation.types import StepOutput
from flagai.model.layer.kernel_choice import jit_kernels


class CapturedSearchStep:
    """Computes :func:`search_step`, and puts what the next forward pass reads into its inputs.

    Args:
        search: the search.
        forward: the forward pass over its tokens.
        output: of the forward pass.
        recorder: captures graphs.
        compiling: the kernels of other searches of the model, by what they are compiled for.
    """

    def __init__(
        self,
        search: Search,
        forward: CapturedForward,
        output: StepOutput,
        recorder: Recorder,
        compiling: dict[Hashable, BackgroundCompile],
    ) -> None:
        self.forward = forward
        self.search = search
        self._output = output
        self._feeding = GraphedFunction(self._feed, recorder)
        kernels = self._compile(compiling)
        self._work = CompiledLater(self._step, recorder, kernels, jit=False, patience=compile_ahead.PATIENCE)

    def __call__(self) -> None:
        """Choose, append, and set what the next forward pass reads."""
        self._work()

    def feed(self) -> None:
        """Set what the next forward pass reads, after texts have come or gone."""
        self._feeding()

    def _feed(self) -> None:
        self.forward.inputs.put(self.search.state.inputs())

    def _step(self, jit: bool) -> None:
        with jit_kernels(jit):
            search_step(self.search, self._output, self.forward.inputs)
        for part in self.search.parts():
            part.settle()

    def _compile(self, compiling: dict[Hashable, BackgroundCompile]) -> BackgroundCompile | None:
        """Compile the kernels of the step by using them on a copy, once for each shape; None if there are none."""
        with jit_kernels():
            compute = search_step.choose(self.search, self._output, self.forward.inputs)
        if compute is search_step.plain:
            return None
        logits, processors = self._output.logits, self.search.processors
        key = (compute, logits.dtype, *logits.shape, self.search.state.protocol.spans, processors.ordered)
        if key in compiling:
            return compiling[key]
        twin, inputs = self.search.twin(), copy.deepcopy(self.forward.inputs)

        def work() -> None:
            with jit_kernels():
                search_step(twin, self._output, inputs)

        return compiling.setdefault(key, BackgroundCompile(work, self.search.device))
