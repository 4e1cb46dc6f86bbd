"""The card of a model: everything known about it before a byte is fetched."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from flagai.catalog.fields import Fields
from flagai.typed_json import shown

FAMILIES = ("glm", "bert", "gpt2", "t5")
LANGUAGES = ("zh", "en")
TASKS = ("lm", "title-generation", "poetry", "ner", "semantic-matching", "embedding", "classification", "seq2seq")
TOKENIZERS = ("sentencepiece", "wordpiece", "bpe", "t5")
COMMAND_NAMES = ("pad", "eos", "sep", "cls", "mask", "unk", "sop", "eop", "sMASK", "gMASK", "bos")
COMMAND_TABLES = ("fixed", "unfixed")
SCHEMES = ("baai", "hf", "modelscope", "http", "https", "file", "package")

# In words, what each scheme is.
HOSTS = {
    "package": "Python package",
    "hf": "Hugging Face",
    "modelscope": "ModelScope",
    "http": "web server",
    "https": "web server",
    "file": "folder",
    "baai": "BAAI hub",
}
SILENT = ("baai",)  # hubs of which nobody has had an answer since they went quiet; they are asked all the same

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Source:
    """A place that has the model.

    Args:
        scheme: one of ``SCHEMES``.
        location: the model's name on the BAAI hub; ``org/name`` on Hugging Face and ModelScope; the whole address of
            the folder for http, https and file; ``import_name/folder`` for a package.
        revision: the commit or tag, where the scheme has such a thing.
    """

    scheme: str
    location: str
    revision: str | None = None

    def __str__(self) -> str:
        text = self.location if "://" in self.location else f"{self.scheme}:{self.location}"
        return f"{text}@{self.revision}" if self.revision else text

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Understand ``scheme:location`` or ``scheme:location@revision``.

        Raises:
            ValueError: it is none; the message says how to write one.
        """
        scheme, _, location = text.partition(":")
        if scheme not in SCHEMES or not location:
            raise ValueError(
                f"{shown(text)} is no source. Write one as {', '.join(f'{name}:...' for name in SCHEMES)}."
            )
        if scheme in ("http", "https", "file"):
            if not location.startswith("//"):
                raise ValueError(f"{shown(text)} is no address. Write it as {scheme}://...")
            return cls(scheme, text)
        location, _, revision = location.partition("@")
        if scheme in ("hf", "modelscope") and not _REPOSITORY.fullmatch(location):
            raise ValueError(f"{shown(text)} names no repository. Write it as {scheme}:organisation/name.")
        if not _stays_inside(location):
            raise ValueError(f"{shown(text)} leaves its place: a path must not start with / nor contain ..")
        return cls(scheme, location, revision or None)


@dataclass(frozen=True)
class File:
    """A file of a model.

    Args:
        name: its name in the model's folder, with / between folders.
        size: its exact size in bytes.
        sha256: its checksum.
        source: the source for which size and sha256 are known; None means all of them.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Tokenizer:
    """How text becomes token ids.

    Args:
        kind: one of ``TOKENIZERS``.
        files: its files.
        aliases: for a file, other names under which the same content comes.
        tokens: the ids of command tokens, by their names in the tokenizer's interface.
        command_table: for Chinese GLM, whether [gMASK] has a row of its own ("fixed") or shares
            <|endofpiece|>'s ("unfixed").
        segmenter: what splits text into words first.
    """

    kind: str
    files: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]
    tokens: Mapping[str, int]
    command_table: str | None = None
    segmenter: str | None = None

    def canonical(self, name: str) -> str:
        """The name that this card uses for a file."""
        return next((own for own, others in self.aliases.items() if name in others), name)


@dataclass(frozen=True)
class Card:
    """A model.

    Args:
        name: its name; lookup ignores case.
        family: one of ``FAMILIES``.
        model_class: the class that loads it.
        task: what it can do as it is; "lm" for a backbone.
        language: "zh" or "en".
        parameters: how many, each counted once.
        config: the content of config.json, used where a download has none.
        tokenizer: how its text becomes ids.
        sources: places that have it, the best first.
        files: its files under FlagAI's names, with sizes and checksums where they are known.
        licence: of the weights.
        base: the model that it was fine-tuned from.
        paper: where it was described.
        notes: what else one should know.
        by_hand: how to get it where no source has it.
        install: what to type where a package has it.
        aliases: other names.
        inferred: for each field that nobody has seen confirmed, what it was concluded from.
        origin: the file that holds the card.
    """

    name: str
    family: str
    model_class: str
    task: str
    language: str
    parameters: int
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    sources: tuple[str, ...]
    files: tuple[File, ...]
    licence: str
    base: str | None
    paper: str | None
    notes: str | None
    by_hand: str | None
    install: str | None
    aliases: tuple[str, ...]
    inferred: Mapping[str, str]
    origin: str

    @property
    def module(self) -> str:
        """The module of the model's class."""
        return f"flagai.model.{self.family}_model"

    def places(self) -> tuple[Source, ...]:
        """The sources, understood."""
        return tuple(Source.parse(source) for source in self.sources)

    @property
    def online(self) -> bool:
        """Whether a source is known to answer, or is on this machine."""
        return any(place.scheme not in SILENT for place in self.places())

    @property
    def available_from(self) -> str:
        """Where the model can be had, in words."""
        schemes = list(dict.fromkeys(place.scheme for place in self.places()))
        if any(place.location.partition("/")[0] == "flagai" for place in self.places() if place.scheme == "package"):
            return "ships with flagai"
        if self.online:
            return ", ".join(HOSTS[scheme] for scheme in schemes if scheme not in SILENT)
        ways = [f"{HOSTS[scheme]} only, not seen to answer" for scheme in schemes] + ["by hand"] * bool(self.by_hand)
        return "; ".join(ways)

    def file(self, name: str, source: str) -> File:
        """What must hold for a file that comes from a source.

        Args:
            name: its name there; other names of tokenizer files are understood.
            source: one of ``sources``.

        Returns:
            The file under this card's name, with size and sha256 only if they are known for this source.
        """
        own = self.tokenizer.canonical(name)
        known = (file for file in self.files if file.name == own and file.source in (None, source))
        return next(known, File(own))


def parse_card(name: str, table: Mapping[str, Any], origin: str) -> Card:
    """Make a card of a table in which everything inherited is filled in.

    Args:
        name: the model's name.
        table: the content.
        origin: the file, for messages.

    Raises:
        CatalogError: a field is missing, unknown or wrong.
    """
    fields = Fields(table, f"{origin}, card {name!r}")
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


def _name(fields: Fields, name: str) -> str:
    if not _stays_inside(name) or "/" in name:
        fields.fail("name", "becomes the name of a folder, so it must not contain / nor be . or ..")
    return name


def _config(fields: Fields) -> dict[str, Any]:
    return fields.table("config") or fields.fail("config", "is missing. Copy the published config.json into it.")


def _sources(fields: Fields) -> tuple[str, ...]:
    texts = fields.texts("sources")
    for text in texts:
        try:
            Source.parse(text)
        except ValueError as error:
            fields.fail("sources", str(error))
    return texts


def _files(fields: Fields, sources: tuple[str, ...]) -> tuple[File, ...]:
    files = []
    for entry in fields.values("files"):
        inner = Fields(
            {"name": entry} if isinstance(entry, str) else _as_table(fields, entry), f"{fields.place}, files"
        )
        file = File(inner.text("name"), inner.count("size"), inner.optional("sha256"), inner.optional("source"))
        inner.finish()
        if not _stays_inside(file.name):
            inner.fail(file.name, "leaves the model's folder. Name it relative to that, without ..")
        if file.sha256 is not None and not _SHA256.fullmatch(file.sha256):
            inner.fail(file.name, f"{shown(file.sha256)} is no sha256. It has 64 digits of 0-9a-f.")
        if file.source is not None and file.source not in sources:
            inner.fail(
                file.name, f"{shown(file.source)} is none of the card's sources. Copy one of them letter by letter."
            )
        files.append(file)
    return tuple(files)


def _as_table(fields: Fields, entry: Any) -> dict[str, Any]:
    return entry if isinstance(entry, dict) else fields.fail("files", f"{shown(entry)} is neither a name nor a table.")


def _tokenizer(fields: Fields) -> Tokenizer:
    table = fields.table("tokenizer")
    inner = Fields(table, f"{fields.place}, tokenizer")
    tokens = inner.table("tokens")
    for name, number in tokens.items():
        if name not in COMMAND_NAMES or not isinstance(number, int) or number < 0:
            inner.fail("tokens", f"{name} = {shown(number)} is no command token. Known: {', '.join(COMMAND_NAMES)}.")
    aliases = Fields(inner.table("aliases"), f"{inner.place}, aliases")
    tokenizer = Tokenizer(
        kind=inner.choice("kind", TOKENIZERS),
        files=inner.texts("files") or inner.fail("files", "is missing. Name the vocabulary's files."),
        aliases={name: aliases.texts(name) for name in table.get("aliases", {})},
        tokens=tokens,
        command_table=inner.choice("command_table", COMMAND_TABLES, "") or None,
        segmenter=inner.optional("segmenter"),
    )
    inner.finish()
    for name in (*tokenizer.files, *(other for others in tokenizer.aliases.values() for other in others)):
        if not _stays_inside(name):
            inner.fail(name, "leaves the model's folder. Name it relative to that, without ..")
    return tokenizer


def _inferred(fields: Fields) -> dict[str, str]:
    table = fields.table("inferred")
    for name, note in table.items():
        if not isinstance(note, str) or not note.strip():
            fields.fail("inferred", f"{name} needs a text that says what it was concluded from.")
    return table


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
