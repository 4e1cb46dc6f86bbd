"""Reading a card strictly: every value has a type, and no key is left over."""

import difflib
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from flagai.catalog.card import (
    COMMAND_NAMES,
    COMMAND_TABLES,
    FAMILIES,
    LANGUAGES,
    TOKENIZERS,
    Card,
    ModelFile,
    ModelSource,
    TokenizerSpec,
    stays_inside,
)
from flagai.catalog.tasks import TASKS
from flagai.errors import CatalogError
from flagai.typed_json import shown

_SHA256 = re.compile(r"[0-9a-f]{64}")


class CardFields:
    """A table of which every key is asked for once."""

    def __init__(self, table: Mapping[str, Any], place: str) -> None:
        self.place = place
        self._left = dict(table)
        self._known: list[str] = []

    def fail(self, name: str, message: str) -> NoReturn:
        """Raise an error that names the place and the field.

        Raises:
            CatalogError: always.
        """
        raise CatalogError(f"{self.place}, {name:.120}: {message}")

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty; without a default the field is required."""
        value = self._take(name, str, "a text in quotes", default)
        if not value.strip() and value is not default:
            self.fail(name, "is empty. Write something, or leave the line out.")
        return str(value)

    def choice(self, name: str, known: tuple[str, ...], default: str | None = None) -> str:
        """One of the known words."""
        value = self.text(name, default)
        if value not in known and value is not default:
            self.fail(name, f"{shown(value)} is unknown{_near(value, known)} Choose one of {', '.join(known)}.")
        return value

    def optional(self, name: str) -> str | None:
        """A text, if there is one."""
        return self.text(name, "") or None

    def count(self, name: str) -> int | None:
        """A number of things, at least 1, if there is one."""
        absent = name not in self._left
        value = self._take(name, int, "an integer", 0)
        if isinstance(value, bool) or value < (0 if absent else 1):
            self.fail(name, f"{shown(value)} is not a number of things. Write an integer above 0.")
        return value or None

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, none by default."""
        values = self.values(name)
        if not all(isinstance(value, str) and value.strip() for value in values):
            self.fail(name, 'is not a list of texts. Write it as ["one", "two"].')
        return values

    def values(self, name: str) -> tuple[Any, ...]:
        """A list of anything, empty by default."""
        return tuple(self._take(name, list, "a list", []))

    def table(self, name: str) -> dict[str, Any]:
        """A table within this one, empty by default."""
        return dict(self._take(name, dict, "a table", {}))

    def finish(self) -> None:
        """Complain of unknown keys.

        Raises:
            CatalogError: there is one.
        """
        for name in self._left:
            self.fail(name, f"there is no such field{_near(name, tuple(self._known))} Known: {', '.join(self._known)}.")

    def _take(self, name: str, kind: type, wanted: str, default: Any) -> Any:
        self._known.append(name)
        if name not in self._left:
            if default is None:
                self.fail(name, "is missing. Every card needs it.")
            return default
        value = self._left.pop(name)
        if not isinstance(value, kind):
            self.fail(name, f"{shown(value)} is not {wanted}.")
        return value


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else "."


def parse_card(name: str, table: Mapping[str, Any], origin: str) -> Card:
    """Make a card of a table in which everything inherited is filled in.

    Raises:
        CatalogError: a field is missing, unknown or wrong.
    """
    fields = CardFields(table, f"{origin}, card {name!r}")
    sources = _sources(fields)
    card = Card(
        name=_name(fields, name),
        family=fields.choice("family", FAMILIES),
        model_class=fields.text("class"),
        task=fields.choice("task", TASKS),
        language=fields.choice("language", LANGUAGES),
        parameters=fields.count("parameters") or fields.fail("parameters", "is missing. Count each one once."),
        config=_config(fields),
        tokenizer=_tokenizer(fields),
        sources=sources,
        files=_files(fields, sources),
        generation=fields.optional("generation") or ("GLM" if table.get("family") == "glm" else None),
        licence=fields.text("licence"),
        base=fields.optional("base"),
        paper=fields.optional("paper"),
        notes=fields.optional("notes"),
        by_hand=fields.optional("by_hand"),
        install=fields.optional("install"),
        aliases=fields.texts("aliases"),
        inferred=_inferred(fields),
        origin=origin,
    )
    fields.finish()
    if not card.sources and card.by_hand is None:
        fields.fail("sources", "is missing. Say where the model is, or in by_hand how one gets it.")
    return card


def _name(fields: CardFields, name: str) -> str:
    if not stays_inside(name) or "/" in name:
        fields.fail("name", "becomes the name of a folder, so it must not contain / nor be . or ..")
    return name


def _config(fields: CardFields) -> dict[str, Any]:
    return fields.table("config") or fields.fail("config", "is missing. Copy the published config.json into it.")


def _sources(fields: CardFields) -> tuple[str, ...]:
    texts = fields.texts("sources")
    for text in texts:
        try:
            ModelSource.parse(text)
        except ValueError as error:
            fields.fail("sources", str(error))
    return texts


def _files(fields: CardFields, sources: tuple[str, ...]) -> tuple[ModelFile, ...]:
    files = []
    for entry in fields.values("files"):
        inner = CardFields(
            {"name": entry} if isinstance(entry, str) else _as_table(fields, entry), f"{fields.place}, files"
        )
        file = ModelFile(inner.text("name"), inner.count("size"), inner.optional("sha256"), inner.optional("source"))
        inner.finish()
        if not stays_inside(file.name):
            inner.fail(file.name, "leaves the model's folder. Name it relative to that, without ..")
        if file.sha256 is not None and not _SHA256.fullmatch(file.sha256):
            inner.fail(file.name, f"{shown(file.sha256)} is not a sha256. It has 64 digits of 0-9a-f.")
        if file.source is not None and file.source not in sources:
            inner.fail(
                file.name, f"{shown(file.source)} is none of the card's sources. Copy one of them letter by letter."
            )
        files.append(file)
    return tuple(files)


def _as_table(fields: CardFields, entry: Any) -> dict[str, Any]:
    return entry if isinstance(entry, dict) else fields.fail("files", f"{shown(entry)} is neither a name nor a table.")


def _tokenizer(fields: CardFields) -> TokenizerSpec:
    table = fields.table("tokenizer")
    inner = CardFields(table, f"{fields.place}, tokenizer")
    tokens = inner.table("tokens")
    for name, number in tokens.items():
        if name not in COMMAND_NAMES or not isinstance(number, int) or number < 0:
            inner.fail("tokens", f"{name} = {shown(number)} is not a command token. Known: {', '.join(COMMAND_NAMES)}.")
    aliases = CardFields(inner.table("aliases"), f"{inner.place}, aliases")
    tokenizer = TokenizerSpec(
        kind=inner.choice("kind", TOKENIZERS),
        files=inner.texts("files") or inner.fail("files", "is missing. Name the vocabulary's files."),
        aliases={name: aliases.texts(name) for name in table.get("aliases", {})},
        tokens=tokens,
        command_table=inner.choice("command_table", COMMAND_TABLES, "") or None,
        segmenter=inner.optional("segmenter"),
    )
    inner.finish()
    for name in (*tokenizer.files, *(other for others in tokenizer.aliases.values() for other in others)):
        if not stays_inside(name):
            inner.fail(name, "leaves the model's folder. Name it relative to that, without ..")
    return tokenizer


def _inferred(fields: CardFields) -> dict[str, str]:
    table = fields.table("inferred")
    for name, note in table.items():
        if not isinstance(note, str) or not note.strip():
            fields.fail("inferred", f"{name} needs a text that says what it was concluded from.")
    return table
