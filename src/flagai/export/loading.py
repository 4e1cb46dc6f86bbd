"""A model's name and a task to an exported folder."""

from pathlib import Path
from typing import Any

from flagai.auto_model.auto_loader import AutoLoader
from flagai.auto_model.lookup import family_at
from flagai.checks import check_extra
from flagai.errors import ExportError
from flagai.export.graphs import ENCODER, STATES_OF
from flagai.export.onnx_folder import Export, export_onnx


def export_task(
    name: str, folder: str | Path, task: str, *, model_dir: str | Path | None = None, **options: Any
) -> Export:
    """Load the model for a task, and export it.

    Args:
        name: as ``model_name`` of :class:`AutoLoader`.
        folder: the folder to write.
        task: a task of :class:`AutoLoader`, or "encoder".
        model_dir: the model directory.
        **options: see :func:`export_onnx`.

    Raises:
        ExportError: models of this family have no exported form.
        FlagAIError: see :class:`AutoLoader` and :func:`export_onnx`.
    """
    check_extra("onnx", "onnx", "onnxruntime", "onnxscript")
    family = family_at(name, model_dir)
    if family not in STATES_OF:  # before gigabytes are loaded
        raise ExportError(f"{name} is a {family} model, which cannot be exported. These can: {', '.join(STATES_OF)}.")
    loader = AutoLoader("lm" if task == ENCODER else task, name, model_dir, device="cpu", dtype="float32")
    if task in ("classification", "semantic-matching") and not loader.model.needs_classes:
        raise ExportError(
            f"{name} classifies as a language model, by scoring labels, which is no graph. Export a classifier, or "
            "this model for --task writing."
        )
    kind = task if task in (ENCODER, "embedding") else None
    return export_onnx(loader.get_model(), loader.get_tokenizer(), folder, task=kind, **options)
