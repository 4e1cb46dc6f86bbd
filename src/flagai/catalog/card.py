"""The card of a model: everything known about it before a byte is fetched."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from flagai.typed_json import shown

# The library's families, and what `model_type` in config.json says of each: here, not in flagai.families, which stands
# above the catalog and the tokenizers.
MODEL_TYPES = {
    "glm": ("glm",),
    "bert": ("bert", "roberta"),
    "gpt2": ("gpt2",),
    "t5": ("t5", "mt5"),
    "chatglm": ("chatglm", "glm-130b"),
    "chatglm2": ("chatglm", "glm", "glm4"),
}
FAMILIES = tuple(MODEL_TYPES)
LANGUAGES = ("zh", "en")
TOKENIZERS = ("sentencepiece", "wordpiece", "bpe", "tiktoken", "t5")
COMMAND_NAMES = (
    *("pad", "eos", "sep", "cls", "mask", "unk", "sop", "eop", "sMASK", "gMASK", "bos"),
    *("system", "user", "assistant", "observation"),
)
COMMAND_TABLES = ("fixed", "unfixed", "chatglm", "chatglm2", "codegeex2", "chatglm3", "glm4")
# What a family's name means to those who ask for its models: GLM is the series, in which generations are families.
SERIES = {"glm": ("glm", "chatglm", "chatglm2"), "chatglm": ("chatglm", "chatglm2")}
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
SILENT = ("baai",)  # hubs that have not answered since they went quiet; they are asked all the same

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def glm_generation(model_type: str, keys: Collection[str]) -> str | None:
    """The family of a GLM whose ``model_type`` several generations share, by the keys of its config.json."""
    if model_type == "glm":  # the original GLM, or transformers' format of GLM-4
        own, other = {"num_layers", "block_position_encoding"}, {"num_hidden_layers", "num_key_value_heads"}
        return "chatglm2" if own.isdisjoint(keys) and not other.isdisjoint(keys) else "glm"
    if model_type == "chatglm":
        return "chatglm" if "inner_hidden_size" in keys else "chatglm2"
    return None


@dataclass(frozen=True)
class ModelSource:
    """A place that has the model."""

    scheme: str  # one of `SCHEMES`
    # The model's name on the BAAI hub; `org/name` on Hugging Face and ModelScope; the whole address of the folder
    # for http, https and file; `import_name/folder` for a package.
    location: str
    revision: str | None = None  # the commit or tag, where the scheme has such a thing

    def __str__(self) -> str:
        text = self.location if "://" in self.location else f"{self.scheme}:{self.location}"
        return f"{text}@{self.revision}" if self.revision else text

    @classmethod
    def parse(cls, text: str) -> "ModelSource":
        """The source that a text means, ``scheme:location`` or ``scheme:location@revision``.

        Raises:
            ValueError: it is not a source; the message says how to write one.
        """
        scheme, _, location = text.partition(":")
        if scheme not in SCHEMES or not location:
            raise ValueError(
                f"{shown(text)} is not a source. Write one as {', '.join(f'{name}:...' for name in SCHEMES)}."
            )
        if scheme in ("http", "https", "file"):
            if not location.startswith("//"):
                raise ValueError(f"{shown(text)} is not an address. Write it as {scheme}://...")
            return cls(scheme, text)
        location, _, revision = location.partition("@")
        if scheme in ("hf", "modelscope") and not _REPOSITORY.fullmatch(location):
            raise ValueError(f"{shown(text)} names no repository. Write it as {scheme}:organisation/name.")
        if not stays_inside(location):
            raise ValueError(f"{shown(text)} leaves its place: a path must not start with / nor contain ..")
        return cls(scheme, location, revision or None)


@dataclass(frozen=True)
class ModelFile:
    """A file of a model."""

    name: str  # its name in the model's folder, with / between folders
    size: int | None = None  # its exact size in bytes
    sha256: str | None = None  # its checksum
    source: str | None = None  # the source for which size and sha256 are known; None means all of them


@dataclass(frozen=True)
class TokenizerSpec:
    """How text becomes token ids."""

    kind: str  # one of `TOKENIZERS`
    files: tuple[str, ...]  # those of the vocabulary
    aliases: Mapping[str, tuple[str, ...]]  # for a file, other names under which the same content comes
    tokens: Mapping[str, int]  # the ids of command tokens, by their names in the tokenizer's interface
    # For Chinese GLM, whether [gMASK] has a row of its own ("fixed") or shares <|endofpiece|>'s ("unfixed"); for
    # ChatGLM and GLM-4, the generation.
    command_table: str | None = None
    segmenter: str | None = None  # what splits text into words first

    def canonical(self, name: str) -> str:
        """The name that this card uses for a file."""
        return next((own for own, others in self.aliases.items() if name in others), name)


@dataclass(frozen=True)
class Card:
    """A model."""

    name: str  # its name; lookup ignores case
    family: str  # one of `FAMILIES`
    model_class: str  # the class that loads it
    task: str  # what it can do as it is; "lm" for a backbone
    language: str  # "zh" or "en"
    parameters: int  # how many, each counted once
    config: Mapping[str, Any]  # the content of config.json, used where a download has none
    tokenizer: TokenizerSpec  # how its text becomes ids
    sources: tuple[str, ...]  # places that have it, the best first
    files: tuple[ModelFile, ...]  # its files under FlagAI's names, with sizes and checksums where they are known
    generation: str | None  # of the GLM series, such as "ChatGLM3"
    licence: str  # of the weights
    base: str | None  # the model that it was fine-tuned from
    paper: str | None  # where it was described
    notes: str | None  # what else one should know
    by_hand: str | None  # how to get it where no source has it
    install: str | None  # what to type where a package has it
    aliases: tuple[str, ...]  # other names
    inferred: Mapping[str, str]  # for each field that is not confirmed, what it was concluded from
    origin: str  # the file that holds the card

    @property
    def module(self) -> str:
        """The module of the model's class."""
        return f"flagai.model.{self.family}_model"

    def places(self) -> tuple[ModelSource, ...]:
        """The sources, understood."""
        return tuple(ModelSource.parse(source) for source in self.sources)

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

    def file(self, name: str, source: str) -> ModelFile:
        """What must hold for a file that comes from a source.

        Args:
            name: its name there; other names of tokenizer files are understood.
            source: one of ``sources``.

        Returns:
            The file under this card's name, with size and sha256 only if they are known for this source.
        """
        own = self.tokenizer.canonical(name)
        known = (file for file in self.files if file.name == own and file.source in (None, source))
        return next(known, ModelFile(own))


def stays_inside(name: str) -> bool:
    """Whether the name of a file, a relative path, stays in its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
