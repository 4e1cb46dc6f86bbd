"""The record of a family: what the library knows of its models besides their layers."""

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from flagai.catalog.card import FAMILIES
from flagai.errors import ConfigError
from flagai.typed_json import shown

if TYPE_CHECKING:  # the command line reads records without torch
    import torch

    from flagai.data.prepare.batch import Batch
    from flagai.data.prompt import Prompt
    from flagai.data.ragged import Ragged
    from flagai.data.tokenizer import Tokenizer

SAMPLING_ORDER = ("repetition_penalty", "temperature", "top_k", "top_p")
IGNORED = -100  # a label that adds nothing to a loss

LabelIds = Mapping[str, Sequence[int]]  # of each label, without special tokens
TokenIds = Callable[["Tokenizer"], tuple[int, ...]]


def named_tokens(*names: str) -> TokenIds:
    """The command tokens of these names that a tokenizer has."""

    def find(tokenizer: "Tokenizer") -> tuple[int, ...]:
        found = (tokenizer.find_command_id(name) for name in names)
        return tuple(dict.fromkeys(token for token in found if token is not None))

    return find


NO_TOKENS = named_tokens()


@dataclass(frozen=True)
class ModelClass:
    """A class of a family."""

    name: str  # its name in Python
    tasks: tuple[str, ...] = ()  # the tasks for which AutoLoader takes it
    # The methods of the Predictor that it can do; "write" stands for all that generate text.
    methods: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()  # its names in transformers, in `architectures` of a config.json
    head: str | None = None  # the tensor that only this class has, under its name in our models' files
    head_classes: bool = True  # whether that tensor has one row per class
    # Whether the tensor decides, whatever `architectures` says: FlagAI's trainer copies them from the backbone.
    head_first: bool = True
    entities: str | None = None  # how the outputs of a class that labels tokens are decoded: "tags", "crf" or "spans"
    cls: type | None = None  # the class itself, if it is not in `flagai.model.<family>_model`


@dataclass(frozen=True)
class ModelInputs:
    """Tokens for one call of a model, in one row; what each attends to is in the cache of the call.

    Args:
        ids: [1, T]
        positions: positions in the text, and GLM's positions inside of a span, [1, 2, T].
        generated: whether they have been generated, [1, T]; else they are of prompts.
    """

    ids: "torch.Tensor"
    positions: "torch.Tensor"
    generated: "torch.Tensor"


@dataclass(frozen=True)
class DecodingProtocol:
    """How the engine decodes with a family."""

    arguments: Callable[[Any, ModelInputs], dict[str, Any]]  # the arguments of `forward` for a model and inputs
    starts: bool = False  # generation begins with a start token; else the prompt's last token predicts the first one
    spans: bool = False  # new tokens have the position of their blank, and count inside of it; else positions run on
    prefix: bool = False  # the prompt's tokens attend to each other; else attention is causal
    encoder: bool = False  # the prompt goes to an encoder; generated tokens count from position 0
    masks_padding: bool = False  # no token attends to tokens that have the padding id


@dataclass(frozen=True)
class TextProtocol:
    """How text is generated: what the prompt looks like, and which tokens begin and end the output."""

    # Texts to prompts of at most so many tokens.
    prompts: "Callable[[Tokenizer, Sequence[str], int | None], list[Prompt]]"
    stop: TokenIds  # the tokens that end the output
    never: TokenIds = NO_TOKENS  # tokens that are never generated
    never_sampled: TokenIds = NO_TOKENS  # tokens that are not sampled
    start: TokenIds = NO_TOKENS  # the token that starts the output, if the prompt's end does not
    order: tuple[str, ...] = SAMPLING_ORDER  # the order in which scores are changed before a token is sampled
    spans: bool = False  # whether the blanks of the prompt are filled, so that it must not be cut
    configured_ends: bool = False  # whether the configuration's `eos_token_id` ends the output, too, as in transformers
    # The start token that a configuration sets, instead of `start`; None if it sets none.
    configured_start: "Callable[[Any, Tokenizer], int | None]" = lambda _config, _tokenizer: None


@dataclass(frozen=True)
class EmbeddingProtocol:
    """How texts become rows and hidden states to average."""

    # The token ids of texts, of at most so many tokens each.
    rows: "Callable[[Tokenizer, Sequence[str], int | None], Ragged]"
    # The last hidden states of packed texts, [1, T, width], from a model and the arguments of an encoder's
    # `forward`; None for families that run padded batches.
    packed_states: "Callable[[Any, dict[str, Any]], torch.Tensor] | None" = None
    # For padded batches, the mask that lengths [B] and a width mean.
    attention_mask: "Callable[[torch.Tensor, int], torch.Tensor] | None" = None
    specials: int = 0  # number of special tokens in a row, which do not count as tokens of the text


@dataclass(frozen=True)
class TrainingProtocol:
    """How records become batches."""

    # A batch of sources and targets, of at most so many tokens each.
    pairs: "Callable[[Tokenizer, Sequence[str], Sequence[str], int, int], Batch]"
    # Whether a source and a target of so many tokens are longer than that.
    is_cut: "Callable[[Tokenizer, int, int, int, int], bool]"
    # Number of special tokens around so many texts.
    specials: "Callable[[Tokenizer, int], int]" = lambda _, texts: texts + 1
    # A batch of texts or pairs and their classes.
    classification: "Callable[[Tokenizer, Sequence[Any], Sequence[int], int], Batch] | None" = None
    # A batch of texts of which parts are masked at random.
    masking: "Callable[[Tokenizer, Sequence[str], Random, int], Batch] | None" = None
    # A batch of windows of at most so many tokens of texts, each token of which is predicted from those before it.
    continuation: "Callable[[Tokenizer, Sequence[str], int], Batch] | None" = None
    # A batch of texts of at most so many tokens, to be embedded.
    embedding: "Callable[[Tokenizer, Sequence[str], int], Batch] | None" = None
    packs: bool = False  # whether texts are trained without padding
    lower: bool = False  # whether titles are generated from lower-cased text


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models."""

    name: str  # its name, which is `family` of its configuration class
    classes: tuple[ModelClass, ...]  # its classes; the first is the backbone
    model_types: tuple[str, ...] = ()  # values of `model_type` in a config.json that mean this family, besides its name
    signature: tuple[str, ...] = ()  # keys that only this family's config.json has, for files without `model_type`
    # How a class generates from a text; the second argument says whether the text has masks.
    text: Callable[[str, bool], TextProtocol] | None = None
    masks: tuple[str, ...] = ()  # the names of the command tokens that are masks to a class that fills spans
    decoding: DecodingProtocol | None = None  # how the engine decodes
    span_decoding: DecodingProtocol | None = None  # how it decodes prompts with blanks, if it does
    blanks: str | None = None  # how blanks are filled: "tokens" (one each), "sentinels" or "spans"
    embedding: EmbeddingProtocol | None = None  # how texts are embedded
    # A batch of one text and each label, whose ids are given, as its continuation; `labels` are the tokens to
    # score.
    label_batch: "Callable[[Any, Tokenizer, str, LabelIds, int | None], Batch] | None" = None
    # Token rows of texts or pairs for a classifier that runs padded batches.
    class_rows: "Callable[[Tokenizer, Sequence[Any], int | None], Sequence[Any]] | None" = None
    class_batch: "Callable[[Tokenizer, Sequence[Any]], Batch] | None" = None  # a batch of such rows
    training: TrainingProtocol | None = None  # how records become batches
    command_rows: bool = False  # whether the embedding has rows for GLM's command tokens
    by_name: Mapping[str, ModelClass] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {row.name: row for row in self.classes})

    def row_of(self, model: object) -> ModelClass | None:
        """The row of a model's class, or of the nearest of its base classes that has one."""
        rows = (self.by_name.get(kind.__name__) for kind in type(model).__mro__)
        return next((row for row in rows if row is not None), None)

    def load(self, name: str) -> Any:
        """The class of this name; its module is imported now."""
        found = self.by_name[name].cls
        return found if found is not None else getattr(importlib.import_module(f"flagai.model.{self.name}_model"), name)


# None: the module of this name in this package has the record; it is imported when it is used.
_RECORDS: dict[str, Family | None] = dict.fromkeys(FAMILIES)


def register_family(family: Family) -> None:
    """Add a family of one's own for this process, or replace it; see docs/new-architecture.md.

    Raises:
        ConfigError: the library has a family of this name, or a class writes texts but the record does not say how.

    Example:
        >>> register_family(Family(name="mine", classes=(ModelClass("MyModel", cls=MyModel),)))
    """
    if family.name in FAMILIES:
        raise ConfigError(f"{family.name!r} is a family of flagai. Choose another name.")
    writes = [row.name for row in family.classes if "write" in row.methods]
    if writes and (family.text is None or family.decoding is None):
        raise ConfigError(f"{writes[0]} has the method 'write', so family {family.name!r} needs `text` and `decoding`.")
    _RECORDS[family.name] = family


def is_family(name: str | None) -> bool:
    """Whether there is a family of this name."""
    return name in _RECORDS


def family_names() -> tuple[str, ...]:
    """The names of all families, as ``ModelConfig.family`` has them."""
    return tuple(_RECORDS)


def family_named(name: str) -> Family:
    """The record of the family of this name.

    Raises:
        ConfigError: the family is unknown.
    """
    if name not in _RECORDS:
        raise ConfigError(f"There is no family {shown(name)}. Known: {', '.join(_RECORDS)}.")
    return _RECORDS[name] or _built_in(name)


@functools.cache
def _built_in(name: str) -> Family:
    found: Family = importlib.import_module(f"flagai.families.{name}").FAMILY
    return found


def all_families() -> Iterator[Family]:
    """The records of all families."""
    return map(family_named, _RECORDS)


def lowers_titles(model: Any) -> bool:
    """Whether a model writes titles of lower-cased text, as it was trained."""
    family, _ = family_and_row(model)
    return family is not None and family.training is not None and family.training.lower


def family_and_row(model: Any) -> tuple[Family | None, ModelClass | None]:
    """The family of a model and the row of its class; None for those of a user's own that are not registered."""
    name = model.config.family
    family = family_named(name) if is_family(name) else None
    return family, None if family is None else family.row_of(model)
