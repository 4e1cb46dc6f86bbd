"""Models that are on this machine already: a folder, one under the folder of models, one in a Python package."""

import importlib.util
from pathlib import Path

from flagai import settings
from flagai.catalog.card import Card
from flagai.catalog.catalog import find, list_models
from flagai.errors import ModelNotFoundError

DEFAULT_EMBEDDING = "all-MiniLM-L6-v2"


def find_model(name_or_path: str) -> Path:
    """The folder of a model, given the folder itself or the name of a model that is present (in any case).

    Raises:
        ModelNotFoundError: there is no such folder, or the model is known but not on this machine.
        CatalogError: a card is broken.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    try:
        card = find(name_or_path)
    except ModelNotFoundError as error:
        packaged = ", ".join(card.name for card in list_models() if card.install)
        raise ModelNotFoundError(f"There is no folder {name_or_path!r}. {error} Packages have {packaged}.") from error
    folder = settings.home() / card.name
    if folder.is_dir():
        return folder
    packaged_folder = package_folder(card)
    if packaged_folder is not None:
        return packaged_folder
    if card.install is not None:
        raise ModelNotFoundError(f"{card.name} is not installed. Type: {card.install}")
    raise ModelNotFoundError(
        f"{card.name} is not on this machine (no folder {folder}). Type: flagai download {card.name}"
    )


def package_folder(card: Card) -> Path | None:
    """The folder of a model in an installed Python package, which is located, never imported.

    Args:
        card: the model.

    Returns:
        The folder, or None if no package has the model, or it is not installed.
    """
    for source in card.places():
        if source.scheme == "package":
            package, _, folder = source.location.partition("/")
            spec = importlib.util.find_spec(package)
            if spec is not None and spec.origin is not None:
                return Path(spec.origin).parent / folder
    return None
