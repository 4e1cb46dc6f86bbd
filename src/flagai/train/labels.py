"""Labels in data: which there are, and what a record says."""

from collections.abc import Sequence

from flagai.data.prepare.labels import Span, decode
from flagai.errors import InputError
from flagai.train.records import Record, joined


def classes(records: Sequence[Record]) -> list[str]:
    """The names of the classes in the column ``label``, numbers in their order, other names by alphabet.

    Raises:
        InputError: a record has no label, or all have the same.
    """
    found = {_name(record) for record in records}
    if len(found) < 2:
        only = ", ".join(map(repr, found))
        raise InputError(f"All {len(records)} labels are {only}; there is nothing to tell apart. Add other examples.")
    return sorted(found, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name))


def class_number(record: Record, known: Sequence[str]) -> int:
    """The number of a record's class.

    Raises:
        InputError: its label is not among the known.
    """
    name = _name(record)
    if name not in known:
        raise InputError(
            f"{record.place}: the label {name!r} is unknown; the training data has {', '.join(known)}. Correct it, or "
            "add examples of it to the training data."
        )
    return known.index(name)


def _name(record: Record) -> str:
    value = record.value("label")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{record.place}: 'label' is {value!r}; expected a name or a whole number.")
    return str(value).strip()


def tagged(record: Record) -> tuple[str, list[Span]]:
    """A text and its entities, from ``text`` or ``tokens`` and a tag for each character or token.

    Raises:
        InputError: the columns are absent, do not go together, or a tag has not the form O, B-TYPE or I-TYPE.
    """
    tags = _strings(record, "tags")
    if "tokens" in record.fields:
        text, places = joined(_strings(record, "tokens"))
        unit = "tokens"
    else:
        text = record.text("text")
        places = [(start, start + 1) for start in range(len(text))]
        unit = "characters"
    if len(places) != len(tags):
        raise InputError(f"{record.place}: {len(places)} {unit} have {len(tags)} tags. Give each one a tag.")
    for tag in tags:
        if tag != "O" and not (tag[:2] in ("B-", "I-") and tag[2:]):
            raise InputError(f"{record.place}: the tag {tag!r} is none of O, B-TYPE and I-TYPE. Convert the tags.")
    names = ["O", *sorted({tag for tag in tags if tag != "O"})]
    return text, decode([names.index(tag) for tag in tags], names, places)


def entity_types(records: Sequence[Record]) -> list[str]:
    """The types of all entities, by alphabet.

    Raises:
        InputError: there is no entity at all.
    """
    found = sorted({span.label for record in records for span in tagged(record)[1]})
    if not found:
        raise InputError(f"No text from {records[0].place} on has an entity. Expected tags such as B-LOC and I-LOC.")
    return found


def known_entities(record: Record, types: Sequence[str]) -> list[Span]:
    """The entities of a record.

    Raises:
        InputError: one has a type that is not among the known.
    """
    spans = tagged(record)[1]
    for span in spans:
        if span.label not in types:
            raise InputError(
                f"{record.place}: the type {span.label!r} is unknown; the training data has {', '.join(types)}. "
                "Correct it, or add examples of it to the training data."
            )
    return spans


def _strings(record: Record, column: str) -> list[str]:
    value = record.value(column)
    if isinstance(value, str):  # a cell of a table
        value = value.split()
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) and entry for entry in value):
        raise InputError(f"{record.place}: {column!r} is {value!r:.60}; expected a list of texts.")
    return value
