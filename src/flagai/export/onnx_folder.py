"""``export_onnx``: a model, its tokenizer and a README in one folder for ONNX Runtime, compared before it is there."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from flagai import __version__
from flagai.checkpoint.atomic import replace_folder
from flagai.checks import check_extra, check_flag, check_integer, check_path
from flagai.convert import check_target, read_companions
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.export.graphs import ENCODER, graph_of
from flagai.export.onnx_graph import COMPARED, TOLERANCES, largest_difference, write_onnx
from flagai.export.ports import Port
from flagai.export.readme import FILE, readme
from flagai.hub.names import MANIFEST
from flagai.model.base_model import BaseModel
from flagai.model.device import Dtype, read_dtype
from flagai.model.predictor.arguments import check_parts
from flagai.resolve import CONFIG_FILE

MODEL_FILE = "model.onnx"
OPSET = 20
_OPSETS = (18, 23)  # the first that torch translates to, and the last that was tried here
_LARGEST = 1_900_000_000  # bytes of weights in one file; ONNX's format ends at 2 GiB


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Args:
        folder: the folder.
        model_class: the class of the model.
        inputs: the inputs of the graph.
        outputs: its outputs.
        opset: the version of ONNX's operators.
        dtype: of the weights.
        difference: the largest between ONNX Runtime and torch, as a part of a tensor's largest number.
        files: the names of the files.
    """

    folder: Path
    model_class: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    dtype: str
    difference: float
    files: tuple[str, ...]


def export_onnx(
    model: BaseModel,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    task: str | None = None,
    dtype: Dtype = "float32",
    opset: int = OPSET,
    external_data: bool | None = None,
    overwrite: bool = False,
) -> Export:
    """Write a model for ONNX Runtime, with its configuration, its tokenizer's files and a README.

    ONNX Runtime's outputs are compared with torch's over several sizes first; if they differ, nothing is written.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        folder: the folder to create or update.
        task: "embedding" for one vector of each text, "encoder" for the encoder of a T5; default what the class does.
        dtype: of the weights, "float32" or "float16".
        opset: the version of ONNX's operators, 18 to 23.
        external_data: write the weights into a file beside the graph, ``model.onnx.data``; default only if one file
            cannot hold them (2 GB).
        overwrite: write into a folder that is not empty.

    Returns:
        What was written, and the largest difference.

    Raises:
        InputError: an argument is wrong, or the extra `onnx` is not installed.
        ExportError: the model has no exported form, or ONNX Runtime computes something else.

    Example:
        >>> export_onnx(loader.get_model(), loader.get_tokenizer(), "ner-onnx")
    """
    check_parts("export_onnx", model, tokenizer)
    check_extra("onnx", "onnx", "onnxruntime", "onnxscript")
    kind = read_dtype(dtype)
    if kind not in TOLERANCES:
        raise InputError(
            f"dtype={dtype!r} cannot be exported, as ONNX Runtime does not compute it. Choose float32 or float16."
        )
    if task not in (None, ENCODER, "embedding"):
        raise InputError(f"task is {task!r:.80}; expected None, 'encoder' or 'embedding'.")
    check_integer("opset", opset, *_OPSETS)
    check_flag("overwrite", overwrite)
    source, target = tokenizer.description.folder, check_path("folder", folder)
    check_target(source, target, overwrite)
    graph = graph_of(_as_exported(model, kind), source, task)
    size = sum(parameter.nbytes for parameter in graph.parameters())
    external = size > _LARGEST if external_data is None else external_data
    with replace_folder(target, drop=("*.onnx", "*.onnx.data", MANIFEST)) as temporary:
        write_onnx(graph, temporary / MODEL_FILE, opset, external_data=external)
        difference = largest_difference(graph, temporary / MODEL_FILE, model.max_positions)
        _write_companions(temporary, model, tokenizer)
        facts = _facts(type(model).__name__, dtype_name := str(kind).removeprefix("torch."), opset, difference)
        (temporary / FILE).write_text(readme(graph, target.resolve().name, facts), encoding="utf-8")
        files = tuple(sorted(path.name for path in temporary.iterdir()))
    ports = graph.inputs, graph.outputs
    return Export(target, type(model).__name__, *ports, opset, dtype_name, difference, files)


def _as_exported(model: BaseModel, dtype: torch.dtype | None) -> BaseModel:
    """The model, or a copy of it, in evaluation mode on the CPU with the dtype of the export."""
    first = next(model.parameters())
    same = all(parameter.dtype == dtype for parameter in model.parameters()) and first.device.type == "cpu"
    return (model if same else copy.deepcopy(model).to("cpu", dtype)).eval()


def _write_companions(folder: Path, model: BaseModel, tokenizer: Tokenizer) -> None:
    found, _ = read_companions(tokenizer.description.folder)
    terms = {name: content for name, content in found.items() if name.startswith(("LICENSE", "NOTICE"))}
    for name, content in {**terms, **tokenizer.description.portable_files()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    model.config.to_json(folder / CONFIG_FILE, "flagai", architectures=[type(model).__name__])


def _facts(model_class: str, dtype: str, opset: int, difference: float) -> list[str]:
    import onnxruntime

    return [
        f"A {model_class}, exported by flagai {__version__} with torch {torch.__version__}: opset {opset}, {dtype}.",
        f"ONNX Runtime {onnxruntime.__version__} (CPU) equals torch to {difference:.1e} of a tensor's largest number, "
        f"for batches of 1 to {max(sizes['batch'] for sizes in COMPARED)} texts of 1 to "
        f"{max(sizes['sequence'] for sizes in COMPARED)} tokens.",
    ]
