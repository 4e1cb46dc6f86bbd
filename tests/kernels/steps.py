"""Steps of generation, stopped where they call an operation: the arguments that tests compare implementations on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flagai.generation.decoding_state import DecodingState
from flagai.generation.processors import LogitsProcessorList
from flagai.generation.replay.forward import RecordedForward, StepKey
from flagai.generation.sampling import SamplingSearch
from flagai.generation.search import search_step
from flagai.generation.types import StepOutput
from flagai.model.block.stack import cached_blocks
from flagai.model.layer.kernel_choice import only_kernels
from flagai.model.layer.operation import Operation
from flagai.model.quantization import quantize as quantize_model
from tests.generation.writers import PLAIN, Writer, writer
from tests.tiny import GATED, build

Arguments = tuple[tuple[Any, ...], dict[str, Any], Callable[[Any], Any]]


class EveryTime:
    """See :class:`flagai.generation.replay.cuda_graph.Recorder`: does the work again every time, as it is."""

    def warm_up(self, work: Callable[[], None]) -> None:
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        return work


class _Captured(Exception):  # noqa: N818 - no error
    pass


def captured(operation: Operation[Any, Any], work: Callable[[], object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the first call of an operation, which is not computed."""

    def spy(*args: Any, **kwargs: Any) -> Any:
        raise _Captured(args, kwargs)

    plain, operation.plain = operation.plain, spy
    try:
        with only_kernels():
            work()
    except _Captured as found:
        args, kwargs = found.args
        return args, kwargs
    finally:
        operation.plain = plain
    raise AssertionError("the operation was not called")


# The models of single steps: of ordinary weights, so that differences of rounding stay small.
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Model", {}),
    "glm": ("GLMModel", {"spell_length": None}),
    "glm-wide": ("GLMModel", {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "spell_length": None}),
    "bert": ("BertForSeq2seq", {}),
    "t5": ("T5Model", {}),
    "t5-gated": ("T5Model", GATED),
}


def begun(writing: Writer, steps: int, options: dict[str, Any], *, static: bool) -> tuple[SamplingSearch, StepOutput]:
    """A search after some steps, its next forward pass over a static cache if asked."""
    decoding = writing.decoding(**options)
    state = DecodingState(writing.model, writing.prompts, decoding, decoding.lanes)
    search = SamplingSearch(state, LogitsProcessorList(decoding, (), state), None)
    output = state.prefill()
    for number in range(steps):
        search_step.plain(search, output)
        if number + 1 < steps:
            output = state.forward()
    if static:
        forward = RecordedForward(state.model, StepKey.of(state), state.cache, EveryTime())
        forward.cache.load(state.cache)
        state.use_recorded(forward)
    return search, output


def decoding_arguments(
    kind: str,
    device: str,
    dtype: torch.dtype,
    lanes: int,
    *,
    rows: int = 2,
    static: bool = True,
    quantize: str | None = None,
    hooked: bool = False,
) -> Arguments:
    """What a step calls :func:`cached_blocks` with."""
    name, changes = _MODELS[kind]
    writing = Writer(build(name, **changes), PLAIN[:rows])
    if quantize is not None:
        quantize_model(writing.model, quantize)
    writing.model.to(device, dtype)
    options = {"do_sample": True, "seed": 5, "num_return_sequences": lanes} if lanes > 1 else {}
    search, _ = begun(writing, 2, options, static=static)
    args, kwargs = captured(cached_blocks, search.state.forward)
    blocks, cache = args[0], args[3]
    if hooked:
        next(each for each in blocks.modules() if isinstance(each, nn.LayerNorm)).register_forward_hook(
            lambda *given: given[2] + 1
        )

    def observed(hidden: torch.Tensor) -> list[Any]:
        if static:
            return [hidden, *(buffer for index in range(cache.num_layers) for buffer in cache.buffers(index))]
        cache.advance(hidden.shape[1])
        nothing = hidden.new_empty(1, 1, 0, 1)
        return [hidden, *(part for index in range(cache.num_layers) for part in cache.append(index, nothing, nothing))]

    return args, kwargs, observed


def search_arguments(kind: str, device: str, dtype: torch.dtype, steps: int, options: dict[str, Any]) -> Arguments:
    """What a search that is replayed calls :func:`search_step` with."""
    writing = writer(kind)
    writing.model.to(device, dtype)
    search, _ = begun(writing, steps, options, static=True)
    output = search.state.forward()
    for owner, names in search.holders():
        for name in names:
            setattr(owner, name, getattr(owner, name).clone(memory_format=torch.contiguous_format))

    def observed(_: None) -> dict[str, torch.Tensor]:
        recorded: Any = search.state.recorded
        inputs = {f"next {name}": tensor for name, tensor in vars(recorded.inputs).items()}
        return inputs | {name: getattr(owner, name) for owner, names in search.holders() for name in names}

    return (search, output), {}, observed
