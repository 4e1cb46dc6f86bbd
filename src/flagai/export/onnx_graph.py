"""From a graph to an ONNX file, and the comparison of the two."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flagai.errors import ExportError
from flagai.export.graphs import Graph
from flagai.export.ports import Sizes, sizes_of
from flagai.model.layer.kernel_choice import only_kernels

# What is traced; the sizes differ, so that none is taken for another.
_TRACED = sizes_of(batch=2, sequence=5, past=3)
# What is compared: one token, one text, no past, padding, many tokens.
COMPARED = (
    sizes_of(1, 1),
    sizes_of(1, 1, 1),
    sizes_of(2, 7),
    sizes_of(3, 1, 9),
    sizes_of(3, 4, 6),
    sizes_of(1, 24, 8),
)
# The largest difference, as a part of a tensor's largest number.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2}
_LOGGERS = ("torch.onnx", "onnx_ir", "onnxscript")
_EXCLUDED = 1e9  # what masked scores are lowered by lies above


def write_onnx(graph: Graph, path: Path, opset: int, *, external_data: bool) -> None:
    """Write a graph, with dynamic axes; its operations are plain torch's.

    Raises:
        ExportError: torch cannot translate it.
    """
    axes = {name: torch.export.Dim(name, min=0 if name == "past" else 1) for name in sizes_of(1, 1)}
    shapes = tuple({number: axes[axis] for number, axis in port.dynamic.items()} for port in graph.inputs)
    try:
        with only_kernels(), torch.no_grad(), _quiet():
            program: Any = torch.onnx.export(
                graph,
                graph.sample(_TRACED),
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=[port.name for port in graph.inputs],
                output_names=[port.name for port in graph.outputs],
                opset_version=opset,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, ValueError) as error:
        raise ExportError(
            f"torch {torch.__version__} cannot translate this {type(graph.model).__name__} to ONNX with opset {opset}: "
            f"{error!s:.300}"
        ) from error
    program.save(path, external_data=external_data)


def largest_difference(graph: Graph, path: Path, limit: int | None) -> float:
    """Compare an ONNX file with its graph over several sizes, and give the largest difference.

    Args:
        graph: the graph.
        path: the file.
        limit: how many positions the model has.

    Raises:
        ExportError: ONNX Runtime refuses the file, or computes something else; the message names the output.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    compared = [sizes for sizes in COMPARED if limit is None or sizes["total"] <= limit]
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return max(_difference(graph, session, sizes) for sizes in compared)
    except (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.NotImplemented,
        errors.RuntimeException,
    ) as error:
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run the graph, so nothing is written: {error!s:.300}"
        ) from error


def _difference(graph: Graph, session: Any, sizes: Sizes) -> float:
    inputs = graph.sample(sizes)
    with only_kernels(), torch.inference_mode():
        wanted: Sequence[torch.Tensor] = graph(*inputs)
    found = session.run(None, {port.name: tensor.numpy() for port, tensor in zip(graph.inputs, inputs, strict=True)})
    largest = 0.0
    for port, ours, theirs in zip(graph.outputs, wanted, found, strict=True):
        expected, got = ours.double().numpy(), theirs.astype(np.float64)
        size = max(
            1.0, np.abs(expected, where=np.abs(expected) < _EXCLUDED, out=np.zeros_like(expected)).max(initial=0)
        )
        parts = np.abs(got - expected) / np.maximum(size, np.abs(expected)) if got.shape == expected.shape else np.inf
        difference = float(np.max(parts, initial=0.0))
        if not difference <= TOLERANCES[next(graph.model.parameters()).dtype]:
            raise ExportError(
                f"ONNX Runtime's {port.name} differs from torch's by {difference:.2g} of its size with {dict(sizes)}, "
                "so nothing is written. Try another --opset or another version of torch, and report it."
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on itself."""
    levels = {logger: logger.level for logger in map(logging.getLogger, _LOGGERS)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
