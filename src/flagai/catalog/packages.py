"""Models that are on this machine already: a folder, one under the model directory, one in a Python package."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from flagai import settings
from flagai.catalog import catalog
from flagai.catalog.card import Card
from flagai.errors import ModelNotFoundError


def find_model(
    name_or_path: str, home: str | Path | None = None, *, holds: Callable[[Path], bool] = os.path.isdir
) -> Path:
    """The folder of a model that is on this machine; nothing is downloaded.

    Args:
        name_or_path: the name of a model, in any case, or without ``home`` its folder as well.
        home: the model directory; default ``FLAGAI_HOME``, or else ``./checkpoints``.
        holds: whether a folder will do; default any folder, also an empty one. Whether a model loads from it says
            :func:`flagai.hub.local_state.holds_model`.

    Raises:
        ModelNotFoundError: there is no such folder, or the model is known but not on this machine.
        CatalogError: the model's card is broken.
    """
    return next(filter(holds, model_folders(name_or_path, home)))


def model_folders(name_or_path: str, home: str | Path | None = None) -> Iterator[Path]:
    """The folders on this machine where a model can be, the best first; the catalog is read after the first one.

    Args:
        name_or_path: a name of the catalog, or the path of a folder.
        home: the model directory; default ``FLAGAI_HOME``.

    Raises:
        ModelNotFoundError: no folder was taken; the message says where the model can be had.
        CatalogError: the model's card is broken.
    """
    path = own_folder(name_or_path, home)
    yield path
    try:
        card = catalog.find(name_or_path)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"There is no folder {path.absolute()}. {error}") from error
    folder = card_folder(card, name_or_path, home)
    packaged = package_folder(card)
    yield folder
    if packaged is not None:
        yield packaged
    ways = [f"flagai download {card.name}"] if any(place.scheme != "package" for place in card.places()) else []
    ways += [card.install] if card.install is not None else []
    where = "" if card.online else f" Available from: {card.available_from}."
    cure = f" Type: {' Or: '.join(ways)}" if ways else " Put its files there."
    raise ModelNotFoundError(f"{card.name} is not on this machine (not in {folder}).{cure}{where}")


def own_folder(name_or_path: str, home: str | Path | None) -> Path:
    """The folder that ``name_or_path`` means in ``home``, whatever the catalog knows."""
    if home is None:
        return Path(name_or_path).expanduser()
    return any_case(Path(home).expanduser(), name_or_path)


def card_folder(card: Card, name: str, home: str | Path | None) -> Path:
    """A model's folder: one for all spellings of its name, unless the user has made one of that spelling.

    Args:
        card: the model's card.
        name: its name as the user writes it.
        home: the model directory; default ``FLAGAI_HOME``.
    """
    if home is not None and os.path.isdir(own := own_folder(name, home)):
        return own
    return any_case(settings.home() if home is None else Path(home).expanduser(), card.name)


def any_case(home: Path, name: str) -> Path:
    """The folder in ``home`` of exactly this name, or else one whose name differs in upper and lower case only."""
    exact = home / name
    if "/" in name or os.path.isdir(exact) or not os.path.isdir(home):
        return exact
    same = (entry for entry in sorted(home.iterdir()) if entry.name.lower() == name.lower() and entry.is_dir())
    return next(same, exact)


def package_folder(card: Card) -> Path | None:
    """The folder of a card's model in an installed Python package, which is located, never imported; else None."""
    places = (installed_folder(source.location) for source in card.places() if source.scheme == "package")
    return next((place for place in places if place is not None), None)


def installed_folder(location: str) -> Path | None:
    """Where ``import_name/folder`` lies on this machine; no code of the package runs, nor of a package around it.

    Args:
        location: the package's import name, with dots for one inside of another, and a folder in it.

    Returns:
        The folder, which may be absent, or None if there is no such package, or the path leaves it.
    """
    package, _, folder = location.partition("/")
    names = package.split(".")
    if not all(name.isidentifier() for name in names) or ".." in PurePosixPath(folder).parts or folder.startswith("/"):
        return None
    try:
        spec = importlib.util.find_spec(names[0])  # of a dotted name it would import the packages around it
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    if len(names) == 1 and not roots and spec.has_location and spec.origin is not None:
        roots = [Path(spec.origin).parent]  # a module of one file
    places = (root.joinpath(*names[1:]) for root in roots)
    return next((place / folder for place in places if os.path.isdir(place)), None)
