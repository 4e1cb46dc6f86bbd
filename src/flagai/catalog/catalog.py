"""Finding models by name: the shipped cards and the user's own."""

import difflib
import functools
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flagai import settings
from flagai.catalog.card import SERIES, Card
from flagai.catalog.parse import CardFields, parse_card
from flagai.catalog.tasks import DEFAULT_MODELS, name_key, without_alias
from flagai.checks import check_path
from flagai.errors import CatalogError, ModelNotFoundError
from flagai.typed_json import open_regular, shown

logger = logging.getLogger(__name__)
# The largest card that ships has 10 KB, and at most 10 dots in a line.
_CARD_LIMIT = 1 << 20
_MOST_DOTS = 200
SHIPPED = Path(__file__).parent / "cards"
# What a card takes over from the model that it resembles, and from the one that it was fine-tuned from.
_LIKE = ("family", "class", "generation", "task", "language", "parameters", "tokenizer", "licence", "paper")
_BASE = ("family", "generation", "language", "tokenizer", "licence", "paper")
# Other words for languages, FlagAI's own among them.
_LANGUAGES = {"ch": "zh", "cn": "zh", "chinese": "zh", "english": "en"}


@dataclass(frozen=True)
class _Draft:
    """A card as it is written, before anything is taken over from another; or what is wrong with it."""

    name: str
    table: Mapping[str, Any]
    origin: str
    error: CatalogError | None = None


def find(name: str, *, cards: str | Path | None = None) -> Card:
    """The card of a model.

    Args:
        name: its name, an alias, or its ``org/name`` on Hugging Face; in any case, with - or _.
        cards: a folder with more cards; they win over those of ``FLAGAI_CARDS``, and these over the shipped ones.

    Raises:
        ModelNotFoundError: there is none; the message offers the nearest.
        CatalogError: the card is broken.

    Example:
        >>> find("glm-LARGE-ch").available_from
        'Hugging Face, ModelScope'
    """
    entries = _catalog(cards)
    known = _index(_sound(entries))
    found = entries.get(name_key(name)) or known.get(name_key(name))
    if isinstance(found, CatalogError):
        raise found
    if found is None:
        raise ModelNotFoundError(_unknown(name, known, entries))
    return found


def find_for_task(name: str, task: str, *, cards: str | Path | None = None) -> Card:
    """The card of a model's fine-tuned variant for a task, or of the model itself if there is none.

    Args:
        name: a model.
        task: a task, such as "title-generation", by any of its names.
        cards: as in :func:`find`.

    Raises:
        ModelNotFoundError: there is no such model.
        CatalogError: a card is broken.
    """
    return _for_task(find(name, cards=cards), without_alias(task), _sound(_catalog(cards)))


def _for_task(base: Card, task: str, cards: tuple[Card, ...]) -> Card:
    """The first card that was fine-tuned from another one for a task; the other one itself if there is none."""
    variants = (card for card in cards if card.base is not None and name_key(card.base) == name_key(base.name))
    return next((card for card in variants if card.task == task), base)


def list_models(
    *,
    task: str | None = None,
    language: str | None = None,
    family: str | None = None,
    cards: str | Path | None = None,
) -> list[Card]:
    """The cards that fit, backbones before fine-tuned models, by family and size.

    Args:
        task: only models that do this task, by any of its names, without further training; see :func:`tasks_of`.
        language: only models of this language: "zh" or "en"; "ch", "chinese" and "english" are understood.
        family: only models of this family; "glm" is the whole series, "chatglm" from ChatGLM-6B on.
        cards: as in :func:`find`.

    Raises:
        CatalogError: a card is broken, or no card has this task, language or family.
    """
    entries = _catalog(cards)
    for error in (entry for entry in entries.values() if isinstance(entry, CatalogError)):
        raise error
    known = found = _sound(entries)
    if language is not None:
        language = _LANGUAGES.get(name_key(language), name_key(language))
    for field, value in (("language", language), ("family", family)):
        if value is not None:
            values = {getattr(card, field) for card in known}
            wanted = SERIES.get(name_key(value), (name_key(value),)) if field == "family" else (name_key(value),)
            if values.isdisjoint(wanted):
                raise CatalogError(f"No model has the {field} {value!r}. Known: {', '.join(sorted(values))}.")
            found = tuple(card for card in found if getattr(card, field) in wanted)
    if task is not None:
        tasks = {card.name: tasks_of(card, known) for card in found}
        found = tuple(card for card in found if without_alias(task) in tasks[card.name])
        if not found:
            values = set().union(*tasks.values())
            raise CatalogError(f"No model has the task {task!r}. Known: {', '.join(sorted(values))}.")
    return sorted(found, key=lambda card: (card.family, card.base is not None, card.parameters, card.name))


def tasks_of(card: Card, cards: tuple[Card, ...] | None = None) -> tuple[str, ...]:
    """The tasks of a model: its card's, and those whose default it is, unless a model fine-tuned from it does them."""
    cards = _sound(_catalog(None)) if cards is None else cards
    defaults = [task for task, names in DEFAULT_MODELS.items() if card.name in names and card.base is None]
    return tuple(dict.fromkeys([card.task, *(task for task in defaults if _for_task(card, task, cards) is card)]))


def _catalog(cards: str | Path | None) -> Mapping[str, Card | CatalogError]:
    """All cards by the keys of their names, the most important first; in place of a broken one, what is wrong."""
    folders = [check_path("cards", cards)] if cards is not None else []
    folders += settings.card_folders()
    return _build([_read_folder(folder) for folder in folders]) if folders else _shipped()


@functools.cache
def _shipped() -> Mapping[str, Card | CatalogError]:
    return _build([])


@functools.cache
def _shipped_drafts() -> tuple[_Draft, ...]:
    return _read_folder(SHIPPED)


def _sound(entries: Mapping[str, Card | CatalogError]) -> tuple[Card, ...]:
    return tuple(entry for entry in entries.values() if isinstance(entry, Card))


def _build(layers: list[tuple[_Draft, ...]]) -> Mapping[str, Card | CatalogError]:
    """Cards of all layers, the first of which win over the later ones."""
    drafts: dict[str, _Draft] = {}
    for layer in (*layers, _shipped_drafts()):
        own: dict[str, _Draft] = {}
        for draft in layer:
            clash = own.setdefault(name_key(draft.name), draft)
            if clash is not draft:
                error = CatalogError(f"{draft.origin} and {clash.origin} both have a card {draft.name!r}. Remove one.")
                own[name_key(draft.name)] = replace(clash, error=error)
        drafts |= {key: draft for key, draft in own.items() if key not in drafts}
    return {key: _parse(draft, drafts) for key, draft in drafts.items()}


def _parse(draft: _Draft, drafts: Mapping[str, _Draft]) -> Card | CatalogError:
    """A card, or what is wrong with it: one broken card must not hide the others."""
    try:
        return parse_card(draft.name, _complete(draft, drafts, ()), draft.origin)
    except CatalogError as error:
        return error


def _complete(draft: _Draft, drafts: Mapping[str, _Draft], seen: tuple[str, ...]) -> dict[str, Any]:
    """The card's table with what it takes over by ``like`` or ``base``."""
    if draft.error is not None:
        raise draft.error
    table = dict(draft.table)
    place = f"{draft.origin}, card {draft.name!r}"
    if "like" in table and "base" in table:
        raise CatalogError(f"{place}: has both like and base. Keep base for a fine-tuned model, like for any other.")
    relation = "like" if "like" in table else "base"
    model = table.pop("like", table.get("base"))
    if model is None:
        return table
    other = drafts.get(name_key(model)) if isinstance(model, str) else None
    if other is None or name_key(draft.name) in seen:
        trouble = "there is no such card" if other is None else "the cards refer to each other in a circle"
        raise CatalogError(f"{place}, {relation}: {shown(model)}: {trouble}. Name a model of the catalog.")
    origin = _complete(other, drafts, (*seen, name_key(draft.name)))
    taken = [field for field in (_LIKE if relation == "like" else _BASE) if field not in table and field in origin]
    tables = (CardFields(origin, f"{other.origin}, card {other.name!r}"), CardFields(table, place))
    config, notes = ([fields.table(name) for fields in tables] for name in ("config", "inferred"))
    kept = {field: note for field, note in notes[0].items() if field in (*taken, "config")}
    inherited = {field: origin[field] for field in taken}
    return inherited | table | {"config": config[0] | config[1], "inferred": kept | notes[1]}


def _read_folder(folder: Path) -> tuple[_Draft, ...]:
    if not folder.is_dir():
        raise CatalogError(
            f"{folder} is not a folder. Point FLAGAI_CARDS, or the argument, to a folder with .toml files."
        )
    return tuple(draft for path in sorted(folder.glob("*.toml")) for draft in _read_file(path))


def _read_file(path: Path) -> tuple[_Draft, ...]:
    try:
        tables = tomllib.loads(_read_card_text(path))
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read; its cards are passed over", path)
        return (_Draft(str(path), {}, str(path), CatalogError(f"{path} cannot be read as TOML: {error}.")),)
    return tuple(_draft(name, table, str(path)) for name, table in tables.items())


def _read_card_text(path: Path) -> str:
    """The text of a card; not one that takes tomllib for ever: its time grows with the cube of a key's parts."""
    with open_regular(path) as file:
        text = file.read(_CARD_LIMIT + 1).decode("utf-8-sig")
    if len(text) > _CARD_LIMIT:
        raise ValueError(f"it is larger than {_CARD_LIMIT:,} bytes")
    if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
        raise ValueError(f"a line has more than {_MOST_DOTS} dots")
    return text


def _draft(name: str, table: object, origin: str) -> _Draft:
    if isinstance(table, dict):
        return _Draft(name, table, origin)
    error = CatalogError(f'{origin}: {name} stands outside of a card. Begin a card with ["its name"].')
    return _Draft(name, {}, origin, error)


def _index(cards: tuple[Card, ...]) -> dict[str, Card]:
    """Cards by all their names; a name wins over an alias, an earlier alias over a later one."""
    index: dict[str, Card] = {name_key(card.name): card for card in cards}
    for card in cards:
        for alias in card.aliases:
            index.setdefault(name_key(alias), card)
    return index


def _unknown(name: str, index: Mapping[str, Card], entries: Mapping[str, Card | CatalogError]) -> str:
    near = difflib.get_close_matches(name_key(name), index, n=6, cutoff=0.6) or [
        key for key in index if name_key(name) in key
    ]
    names = list(dict.fromkeys(index[key].name for key in near))[:3]
    hint = f" Did you mean {' or '.join(names)}?" if names else ""
    broken = "".join(
        f" It may be in what is broken: {entry}" for entry in entries.values() if not isinstance(entry, Card)
    )
    return f"The catalog has no model {shown(name)}.{hint} `flagai list` shows all {len(_sound(entries))}.{broken}"
