"""How the rows of a part are answered: those that cannot be are told apart from the others."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flagai.data.tokenizer.text import clean
from flagai.errors import InputError
from flagai.jobs.parts import Part
from flagai.jobs.rows import RawRow, fields_of

if TYPE_CHECKING:
    from flagai.model.base_model import BaseModel

# How far the seeds of equal texts in two neighbouring parts lie apart.
_SEEDS_OF_PART = 1_000_003
# So many texts of a part tell how many tokens all have: the model encodes each once more.
_COUNTED = 32


@dataclass(frozen=True)
class InputText:
    """A text to work on.

    Args:
        text: the text.
        fields: the object that it came in, which the answer is added to.
        place: the file and the line, or the argument, for messages.
        draws: how many random answers equal texts had before.
    """

    text: str
    fields: dict[str, Any]
    place: str
    draws: int = 0

    @property
    def number(self) -> int:
        """The number of the line or the argument."""
        return int(self.place.rpartition(" ")[2])


def model_identity(model: "BaseModel") -> str:
    """What tells a model from others: its class and its configuration."""
    content = json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode()
    return f"{type(model).__name__} {hashlib.sha256(content).hexdigest()[:16]}"


def text_in(place: str, fields: Any, name: str) -> InputText:
    """The text of a row.

    Args:
        place: of the row.
        fields: its fields.
        name: of the field that has the text.

    Raises:
        InputError: there is none.
    """
    if not isinstance(fields, dict) or not isinstance(fields.get(name), str):
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise InputError(f"{place} has no text in {name!r} (found: {found}). Name the field by --field.")
    return InputText(clean([fields[name]])[0], fields, place)


def count_draws(entries: Sequence[InputText], each: int = 1, begin: int = 0) -> list[InputText]:
    """Say of each text how many random answers equal ones had before it.

    Args:
        entries: the texts.
        each: answers to a text.
        begin: of the first one.
    """
    times: Counter[str] = Counter()
    found = []
    for entry in entries:
        found.append(InputText(entry.text, entry.fields, entry.place, begin + each * times[entry.text]))
        times[entry.text] += 1
    return found


@dataclass(frozen=True)
class Answering:
    """What answers texts.

    Args:
        read: makes a text of a row's place and fields, or raises an InputError.
        compute: the answers to texts, which may raise an InputError because of one of them.
        as_fields: an answer as fields.
        field: under which name a line of a text is given.
        batch_size: how many texts are given to ``compute`` at a time; None for all.
        draws: how many random answers a text gets.
        count_tokens: the number of tokens of texts; some of a part are asked about.
        model: which model answers.
    """

    read: Callable[[str, Any], InputText]
    compute: Callable[[list[InputText]], Sequence[Any]]
    as_fields: Callable[[Any], dict[str, Any]]
    field: str = "text"
    batch_size: int | None = None
    draws: int = 1
    count_tokens: Callable[[list[str]], int] | None = None
    model: str = ""

    def answer(self, part: Part) -> "Answered":
        """Answer the rows of a part."""
        found = Answered()
        entries, _ = self._read(part.rows, fields_of(part.path, self.field), str(part.path), found)
        entries = count_draws(entries, self.draws, part.number * _SEEDS_OF_PART)
        size = self.batch_size or max(len(entries), 1)
        for begin in range(0, len(entries), size):
            self._compute(entries[begin : begin + size], found)
        found.errors.sort(key=lambda error: int(error["line"]))
        found.tokens = self._tokens([entry.text for entry in entries])
        return found

    def _tokens(self, texts: list[str]) -> int:
        """About how many tokens texts have: by their characters, and the tokens of some of them."""
        some = texts[:: max(len(texts) // _COUNTED, 1)]
        if self.count_tokens is None or not any(some):
            return 0
        return round(self.count_tokens(some) * sum(map(len, texts)) / sum(map(len, some)))

    def answer_rows(self, rows: list[RawRow], understand: Callable[[RawRow], dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer rows of another reader, in their order; those that cannot be answered get an ``error``.

        Args:
            rows: the rows, numbered from 1.
            understand: see :func:`fields_of`.
        """
        found = Answered()
        entries, fields = self._read(rows, understand, "rows", found)
        self._compute(entries, found)
        reasons = {int(error["line"]): error["error"] for error in found.errors}
        answered = iter(found.rows)
        return [
            {**fields.get(row.number, {}), "error": reasons[row.number]} if row.number in reasons else next(answered)
            for row in rows
        ]

    def _read(
        self, rows: Sequence[RawRow], understand: Callable[[RawRow], dict[str, Any]], file: str, found: "Answered"
    ) -> tuple[list[InputText], dict[int, dict[str, Any]]]:
        """The texts of rows, and the fields of all that have some, by their numbers."""
        entries, fields = list[InputText](), dict[int, dict[str, Any]]()
        for row in rows:
            place = f"{file}, line {row.number}"
            try:
                fields[row.number] = understand(row)
                entries.append(self.read(place, fields[row.number]))
            except InputError as error:
                found.fail(place, error)
        return entries, fields

    def _compute(self, entries: list[InputText], found: "Answered") -> None:
        """Answer texts, and halve them to find the one that an error is about."""
        try:
            answers = self.compute(entries)
        except InputError as error:
            if len(entries) == 1:
                found.fail(entries[0].place, error)
                return
            middle = len(entries) // 2
            self._compute(entries[:middle], found)
            self._compute(entries[middle:], found)
            return
        for entry, answer in zip(entries, answers, strict=True):
            found.rows.append(entry.fields | self.as_fields(answer))


@dataclass
class Answered:
    """The answers of a part.

    Args:
        rows: fields and answers of the rows that could be answered.
        errors: file, line and reason of the others.
        tokens: of all texts, about.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0

    def fail(self, place: str, error: InputError) -> None:
        """Note that a row could not be answered."""
        file, _, line = place.rpartition(", line ")
        self.errors.append({"file": file, "line": int(line), "error": str(error).removeprefix(f"{place} ")})
