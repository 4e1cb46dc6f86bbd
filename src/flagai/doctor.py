"""Examine a model folder: does everything fit, and are the weights sound?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from flagai import settings
from flagai.auto_model.registry import find_class
from flagai.catalog.packages import find_model
from flagai.checkpoint.reader import Checkpoint, open_checkpoint
from flagai.checkpoint.report import fold
from flagai.errors import FlagAIError
from flagai.hub.repository import repository
from flagai.resolve import CONFIG_FILE
from flagai.typed_json import read_json


@dataclass(frozen=True)
class Diagnosis:
    """One line of the examination: whether it is a problem, and a text that says what was found."""

    problem: bool
    text: str


def examine(folder: str | Path) -> Iterator[Diagnosis]:
    """Check a model folder step by step; reads every weight once.

    Args:
        folder: the model's folder, a weights file, or the name of a model on this machine; nothing is fetched.

    Yields:
        Findings, in the order of the steps. Nothing is raised for a bad folder.
    """
    try:
        folder = path if (path := Path(folder).expanduser()).exists() else _named(folder)
        checkpoint = open_checkpoint(folder)
        checkpoint.check_memory()
    except FlagAIError as error:
        yield Diagnosis(True, str(error))
        return
    count = sum(tensor.numel() for part in checkpoint.parts for tensor in part.values())
    parts = f" in {len(checkpoint.parts)} model-parallel parts" if len(checkpoint.parts) > 1 else ""
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    yield Diagnosis(False, f"{len(checkpoint)} tensors{parts}, {count:,} values, mostly {dtype}")
    if folder.is_dir():
        yield _fit(folder, checkpoint)
    yield from _soundness(checkpoint)


def _named(name: str | Path) -> Path:
    known = repository(name)
    return find_model(str(name)) if known is None else settings.home() / known.name


def _fit(folder: Path, checkpoint: Checkpoint) -> Diagnosis:
    try:
        found, overrides = find_class(read_json(folder / CONFIG_FILE), checkpoint)
        model = found.on_meta(found.config_class.from_json(folder / CONFIG_FILE, **overrides))
        report = model.load_checkpoint(checkpoint)
    except OSError:
        return Diagnosis(True, f"{folder} has no readable {CONFIG_FILE}.")
    except FlagAIError as error:
        return Diagnosis(True, str(error))
    unused = f"; not used: {', '.join(fold(report.unused))}" if report.unused else ""
    fresh = (
        f"; absent, would start at random: {', '.join(fold(report.newly_initialized))}"
        if report.newly_initialized
        else ""
    )
    return Diagnosis(bool(report.newly_initialized), f"the weights fit {found.__name__} exactly{unused}{fresh}")


def _soundness(checkpoint: Checkpoint) -> Iterator[Diagnosis]:
    broken: dict[str, list[str]] = {"NaN": [], "infinite values": [], "nothing but zeros": []}
    for name in checkpoint:
        for tensor in checkpoint.tensors(name):
            if tensor.is_floating_point() and tensor.numel():
                for flaw in _flaws(tensor):
                    broken[flaw].append(name)
    for flaw, names in broken.items():
        if names:
            yield Diagnosis(
                flaw != "nothing but zeros", f"{len(names)} tensors hold {flaw}: {', '.join(fold(names)[:6])}"
            )
    if not broken["NaN"] and not broken["infinite values"]:
        yield Diagnosis(False, "all values are finite")


def _flaws(tensor: torch.Tensor) -> Iterator[str]:
    if tensor.isnan().any():
        yield "NaN"
    if tensor.isinf().any():
        yield "infinite values"
    # Biases and position scores are often zero; a whole matrix of zeros was never trained.
    if tensor.dim() > 1 and not tensor.any():
        yield "nothing but zeros"
