"""What the Predictor answers: frozen dataclasses that are also tuples, texts or numbers, as FlagAI's answers are."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, ClassVar, Self

from flagai.chat.messages import Message, ToolCall


class DataTuple:
    """A frozen dataclass that is also the tuple of its required fields; it compares, unpacks and hashes as that tuple.

    ``json.dumps`` writes the tuple, ``dataclasses.asdict`` gives every field by its name. ``repr`` shows the fields of
    the tuple, and after a semicolon the others.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """The tuple; the dataclass's ``__init__`` sets the fields."""
        given = dict(zip(cls.__dataclass_fields__, values, strict=False)) | named
        declared = cls.__dataclass_fields__.values()
        required = [each.name for each in declared if each.default is each.default_factory is MISSING]
        return tuple.__new__(cls, (given[name] for name in required if name in given))  # type: ignore[type-var]

    def __repr__(self) -> str:
        shown = [f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__]
        parts = (shown[: len(self)], shown[len(self) :])  # type: ignore[arg-type]
        return f"{type(self).__name__}({'; '.join(', '.join(part) for part in parts if part)})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What copying and pickling create it from."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)


class DataValue:
    """A frozen dataclass that is also the value of its first field; it compares, computes, prints and hashes as that.

    ``json.dumps`` writes the value, ``dataclasses.asdict`` and ``repr`` give every field by its name.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """The value; the dataclass's ``__init__`` sets the fields."""
        first = values[0] if values else named[next(iter(cls.__dataclass_fields__))]
        return super().__new__(cls, first)  # type: ignore[call-arg]

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What copying and pickling create it from."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)


@dataclass(frozen=True, eq=False, repr=False)
class Entity(DataTuple, tuple[int, int, str]):
    """A named entity, equal to FlagAI's tuple ``(start, end, type)``."""

    start: int  # its first character, counted from 0 in the text as given
    end: int  # its last character, inclusive
    type: str  # such as "LOC"
    text: str = ""  # the characters
    # Of a softmax or CRF head the mean of its tokens' probabilities (a CRF's marginals); of GlobalPointer the span's
    # score, above 0.
    score: float = 0.0


@dataclass(frozen=True, eq=False, repr=False)
class Written(DataTuple, tuple[str, float, bool]):
    """A generated text; as a tuple ``(text, score, finished)``."""

    text: str  # the answer; for texts with blanks the prompt, followed by what was generated for each blank
    score: float  # the sum of its tokens' log-probabilities, divided by its length to the power of `length_penalty`
    finished: bool  # whether an end token ended it, and not the limit of its length
    written: str = ""  # what the model generated, without the prompt and special tokens; one line per blank


@dataclass(frozen=True, eq=False, repr=False)
class WrittenText(DataValue, str):
    """The one text that was asked for: a ``str``, as FlagAI answers, that knows its score."""

    text: str
    score: float = 0.0  # as in Written
    finished: bool = True  # whether an end token ended it, and not the limit of its length

    @classmethod
    def of(cls, written: Written) -> Self:
        """The text of an answer.

        Args:
            written: the answer.
        """
        return cls(written.text, written.score, written.finished)


@dataclass(frozen=True, eq=False, repr=False)
class Similarity(DataValue, float):
    """How similar two texts are: a ``float`` that knows what it is."""

    score: float  # the number
    # "probability" that they mean the same, a "regression"'s number, or of their embeddings the "cosine" or the "dot".
    measure: str = "cosine"

    def __str__(self) -> str:
        return float.__repr__(self)


@dataclass(frozen=True, eq=False, repr=False)
class Chatted(DataTuple, tuple[str, bool]):
    """An answer in a conversation; as a tuple ``(content, finished)``."""

    content: str  # what is meant for the user
    finished: bool  # whether an end token ended it, and not the limit of its length
    message: Message = field(default_factory=lambda: Message("assistant"))  # the whole, to append to the conversation
    num_prompt_tokens: int = 0  # of the conversation
    num_tokens: int = 0  # of the answer

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools that the model asks for; nothing here carries them out."""
        return self.message.tool_calls

    @property
    def reasoning(self) -> str:
        """What the model wrote before its answer, such as GLM-Z1."""
        return self.message.reasoning

    @property
    def finish_reason(self) -> str:
        """Why it ends, in OpenAI's words: "stop", "tool_calls" or "length"."""
        return ("tool_calls" if self.tool_calls else "stop") if self.finished else "length"


@dataclass(frozen=True, eq=False, repr=False)
class Filled(DataTuple, tuple[str, tuple[tuple[int, int], ...], tuple[str, ...], float]):
    """A text with its blanks filled; as a tuple ``(text, spans, fillings, score)``."""

    text: str
    spans: tuple[tuple[int, int], ...]  # where each filling is in it: (first character, end exclusive)
    fillings: tuple[str, ...]  # what was generated for each blank, in order
    score: float  # the sum of the log-probabilities of the fillings


@dataclass(frozen=True, eq=False, repr=False)
class Classified(DataTuple, tuple[str, float]):
    """The class of a text; as a tuple ``(label, score)``."""

    label: str  # the name of the class with the highest score, or its number if it has no name
    score: float  # its probability; a regression's value
    # The score of each class. Where classes do not exclude each other, each is a probability by itself.
    scores: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Mapping[str, float]) -> Self:
        """The class with the highest score."""
        label = max(scores, key=lambda name: scores[name])
        return cls(label, scores[label], scores)
