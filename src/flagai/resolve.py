"""Find the folder of a model: on this machine first, else through the catalog and the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai import settings
from flagai.catalog import catalog
from flagai.catalog.card import Card
from flagai.catalog.packages import card_folder, model_folders, own_folder
from flagai.checkpoint.files import CheckpointFiles, find_files
from flagai.checks import check_path
from flagai.errors import FlagAIError, ModelNotFoundError, quoted
from flagai.hub import EVERYTHING, ensure
from flagai.hub.local_state import intact, provenance
from flagai.hub.repository import fetch_repository, with_revision
from flagai.hub.request import UncatalogedModel

CONFIG_FILE = "config.json"
ADAPTER_FILE = "adapter_config.json"  # of PEFT


@dataclass(frozen=True)
class ResolvedModel:
    """A model's folder."""

    folder: Path  # where the files are
    # the configuration's content, if it is known from the catalog only, as for THUDM's archives.
    config: Mapping[str, Any] | None = None
    files: CheckpointFiles | None = None  # the weights' files, if they were looked for


def resolve(
    download_path: str | Path | None, model_name: str | Path = "", *, weights: bool = True, revision: str | None = None
) -> ResolvedModel:
    """Find a model as :func:`flagai.catalog.packages.find_model` does, or else fetch it.

    If the folder has what is asked for, nothing else is looked at: no catalog, no connection. If a download into it was
    interrupted, or a fetched file was cut short since, that is mended first.

    Args:
        download_path: the model directory, or (without ``model_name``) a model's folder or name.
        model_name: the model's folder in it, its name in the catalog, in any case, or a repository such as
            "owner/name", "hf:owner/name@revision" or "modelscope:owner/name" (:mod:`flagai.hub.repository`).
        weights: whether the weights are needed too.
        revision: the commit, branch or tag of a repository.

    Raises:
        ModelNotFoundError: there is no such folder, and the catalog has no such name.
        HubError: the files cannot be fetched.
    """
    home = settings.home() if download_path is None else download_path
    check_path("download_path", home)
    check_path("model_name", "" if model_name is None else model_name)
    asked, place = (model_name, home) if model_name else (home, None)
    asked = with_revision(asked, revision)
    try:
        folder = fetch_repository(asked, place, _wanted(weights))
        return _found(str(asked), place, weights) if folder is None else ResolvedModel(folder)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: the home of a user who does not exist
        if isinstance(error, FlagAIError):
            raise
        raise ModelNotFoundError(f"{quoted(asked)!r} cannot be read: {error}.") from error  # no rights, or no such name


def _found(name: str, place: str | Path | None, weights: bool) -> ResolvedModel:
    try:
        folder, files = next(filter(None, (_here(each, name, weights) for each in model_folders(name, place))))
    except ModelNotFoundError as error:
        folder, files = _downloaded(name, place, weights, error), None
    card = None if (folder / CONFIG_FILE).is_file() else _card(name)
    return ResolvedModel(folder, None if card is None else card.config, files)


def _here(folder: Path, name: str, weights: bool) -> tuple[Path, CheckpointFiles | None] | None:
    """A folder that has what is asked for, and its weights; if only those, the catalog must know the configuration."""
    has_config = (folder / CONFIG_FILE).is_file()
    files = _weights_of(folder) if weights or not has_config else None
    if files is None and (weights or not has_config):
        return None
    return (folder, files) if intact(folder) and (has_config or _card(name) is not None) else None


def _weights_of(folder: Path) -> CheckpointFiles | None:
    try:
        return find_files(folder)
    except FlagAIError:
        return None


def _card(name: str) -> Card | None:
    try:
        return catalog.find(name)
    except ModelNotFoundError:
        return None


def refuse_adapter(folder: Path) -> None:
    """Refuse the folder of an adapter where a model's is expected.

    Raises:
        ModelNotFoundError: it is one.
    """
    if (folder / ADAPTER_FILE).is_file():
        raise ModelNotFoundError(
            f"{folder.absolute()} holds a LoRA adapter, not a model. Load its base model with adapter={str(folder)!r} "
            "(--adapter)."
        )


def _wanted(weights: bool) -> tuple[str, ...]:
    return EVERYTHING if weights else tuple(group for group in EVERYTHING if group != "weights")


def _downloaded(name: str, home: str | Path | None, weights: bool, error: ModelNotFoundError) -> Path:
    """Fetch a model, or what its folder lacks of what was fetched into it before."""
    folder, card = own_folder(name, home), _card(name)
    wanted = _wanted(weights)
    manifest = provenance(folder) if folder.is_dir() else None
    if manifest is not None:
        return ensure(card or UncatalogedModel(manifest.name, (manifest.source,)), folder, wanted=wanted)
    if card is not None:
        return ensure(card, card_folder(card, name, home), wanted=wanted)
    if (folder / CONFIG_FILE).is_file():
        return folder  # the weights are absent or broken; the loader says which
    refuse_adapter(folder)
    if folder.is_dir():
        found = sorted(entry.name for entry in folder.iterdir())[:10] or "an empty folder"
        raise ModelNotFoundError(
            f"{folder.absolute()} has no {CONFIG_FILE}. Fetch it with the weights, or write one "
            f"(docs/checkpoints.md). Found: {found}."
        ) from error
    raise error
