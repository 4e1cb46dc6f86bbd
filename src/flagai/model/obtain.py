"""Find the folder of a model: on this machine first, else through the catalog and the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagai import settings
from flagai.checkpoint.files import find_files
from flagai.errors import FlagAIError, ModelNotFoundError

if TYPE_CHECKING:
    from flagai.catalog.card import Card

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Found:
    """A model's folder.

    Args:
        folder: where the files are.
        config: the configuration's content, if it is known from the catalog only, as for THUDM's archives.
    """

    folder: Path
    config: Mapping[str, Any] | None = None


def obtain(download_path: str | Path | None, model_name: str, *, weights: bool = True) -> Found:
    """Find a model, and fetch it if it is not here.

    If the folder has what is asked for, nothing else is looked at: no catalog, no connection.

    Args:
        download_path: the folder of models, or (without ``model_name``) a model's folder or name.
        model_name: the model's folder in it, or its name in the catalog, in any case.
        weights: whether the weights are needed too.

    Raises:
        ModelNotFoundError: there is no such folder, and the catalog has no such name.
        HubError: the files cannot be fetched.
    """
    folder = (settings.home() if download_path is None else Path(download_path)) / model_name
    if _is_here(folder, weights):
        return Found(folder)
    card = _card(folder, model_name or str(download_path))
    if card is None:
        return Found(folder)
    root = settings.home() if download_path is None or not model_name else Path(download_path)
    # One folder per model, however its name is spelt; one that the user has made is used.
    target = folder if model_name and folder.is_dir() else root / card.name
    for place in _places(target, card):
        if _is_here(place, weights):
            return Found(place)
        if _has_weights(place) and not (place / CONFIG_FILE).is_file():
            return Found(place, card.config)
    return _fetched(card, target, weights)


def variant(download_path: str | Path | None, model_name: str, task: str) -> str:
    """The name under which a model fine-tuned for a task is found; the model's own name if there is none.

    A folder ``model_name-task`` on this machine comes first; only then is the catalog asked.

    Args:
        download_path: the folder of models.
        model_name: the backbone, such as "GLM-large-ch".
        task: the task, such as "title-generation".
    """
    from flagai.catalog.catalog import find_for_task

    home = settings.home() if download_path is None else Path(download_path)
    local = f"{model_name}-{task}"
    if (home / local).is_dir():
        return local
    try:
        card = find_for_task(model_name, task)
    except ModelNotFoundError:
        return model_name
    return model_name if card.base is None else card.name


def _card(folder: Path, name: str) -> "Card | None":
    """The model's card; None if the name is unknown, but the folder has something to report about."""
    from flagai.catalog.catalog import find

    try:
        return find(name)
    except ModelNotFoundError as error:
        if (folder / CONFIG_FILE).is_file():
            return None  # the weights are absent or broken; the loader says which
        if folder.is_dir():
            found = sorted(entry.name for entry in folder.iterdir())[:10] or "an empty folder"
            raise ModelNotFoundError(
                f"{folder.absolute()} has no {CONFIG_FILE}. Fetch it with the weights, or write one "
                f"(docs/checkpoints.md). Found: {found}."
            ) from error
        raise ModelNotFoundError(f"There is no folder {folder.absolute()}. {error}") from error


def _places(target: Path, card: "Card") -> list[Path]:
    """Where a known model may already be: in its folder, or in a Python package."""
    from flagai.catalog.packages import package_folder

    package = package_folder(card)
    return [target, *([package] if package is not None else [])]


def _fetched(card: "Card", target: Path, weights: bool) -> Found:
    from flagai.hub import EVERYTHING, ensure

    wanted = EVERYTHING if weights else tuple(group for group in EVERYTHING if group != "weights")
    folder = ensure(card, target, wanted=wanted)
    return Found(folder, None if (folder / CONFIG_FILE).is_file() else card.config)


def _is_here(folder: Path, weights: bool) -> bool:
    return (folder / CONFIG_FILE).is_file() and (not weights or _has_weights(folder))


def _has_weights(folder: Path) -> bool:
    try:
        find_files(folder)
    except FlagAIError:
        return False
    return True
