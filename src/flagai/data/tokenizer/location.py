"""Where a tokenizer's files are: on this machine first, else fetched, and nothing but them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flagai import settings
from flagai.data.tokenizer.description import has_tokenizer
from flagai.errors import ModelNotFoundError

if TYPE_CHECKING:
    from flagai.catalog.card import Card


@dataclass(frozen=True)
class Location:
    """A folder with a tokenizer.

    Args:
        folder: the folder.
        card: the card of the model, if it has one.
    """

    folder: Path
    card: "Card | None"


def find_card(name: str) -> "Card | None":
    """The card of a model, or None if the catalog does not know the name."""
    from flagai.catalog.catalog import find

    try:
        return find(name)
    except ModelNotFoundError:
        return None


def locate(name: str, cache_dir: str | Path | None) -> Location:
    """Find the folder of a tokenizer, and fetch its files if they are not here.

    A model that was fine-tuned from another one uses the other one's tokenizer, unless its own folder has one.

    Args:
        name: a model's name, in any case, or a folder.
        cache_dir: the folder of models; default: the home of models.

    Raises:
        ModelNotFoundError: there is no such folder, and the catalog has no such name.
        HubError: the files cannot be fetched.
    """
    home = settings.home() if cache_dir is None else Path(cache_dir).expanduser()
    card = find_card(name) or find_card(Path(name).name)
    base = find_card(card.base) if card is not None and card.base is not None else None
    for folder in _places(home, name, card, base):
        if has_tokenizer(folder):
            return Location(folder, card)
    path = Path(name).expanduser()
    if path.is_dir():
        return Location(path, card)
    if card is None:
        return Location(_unknown(home, name), None)
    return Location(_fetched(base or card, home), card)


def _places(home: Path, name: str, card: "Card | None", base: "Card | None") -> list[Path]:
    from flagai.catalog.packages import any_case, package_folder

    names = [name, *(known.name for known in (card, base) if known is not None)]
    places = [any_case(home, entry) for entry in names]
    places += [home] * (home.name.lower() == name.lower())  # the model's own folder instead of the one above
    packages = [package_folder(known) for known in (card, base) if known is not None]
    return [*places, *(folder for folder in packages if folder is not None)]


def _unknown(home: Path, name: str) -> Path:
    from flagai.catalog.catalog import find
    from flagai.catalog.packages import any_case

    folder = any_case(home, name)
    if not folder.is_dir():
        try:
            find(name)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"There is no folder {folder.absolute()}. {error}") from error
    return folder


def _fetched(card: "Card", home: Path) -> Path:
    from flagai.catalog.packages import any_case
    from flagai.hub import ensure

    return ensure(card, any_case(home, card.name), wanted=("tokenizer",))
