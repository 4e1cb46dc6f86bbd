"""Labels in every scheme that is in use mean the same entities, here and in conlleval."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagai.data.prepare.labels import Span, decode, encode
from flagai.data.prepare.scheme import OUTSIDE, Tag, read_tags
from flagai.errors import InputError
from flagai.train.metrics import entity_scores

KINDS = ("LOC", "WORK-OF-ART", "B", "E_MAIL", "O")
Found = list[tuple[int, int, str]]


def read(labels: Sequence[str], names: Sequence[str], **options: bool) -> Found:
    """The entities (first token, last token, type) of a row of labels."""
    offsets = [(index, index + 1) for index in range(len(names))]
    found = decode([labels.index(name) for name in names], labels, offsets, **options)
    return [(span.start, span.end, span.label) for span in found]


def conlleval(tags: Sequence[tuple[str, str]]) -> Found:
    """The rules of the shared task's script, written down from its definition: when a chunk begins and when it ends."""
    found: Found = []
    start = None
    for index, ((before, kind), (mark, following)) in enumerate(
        zip([("O", ""), *tags], [*tags, ("O", "")], strict=True)
    ):
        other = kind != following
        ends = before != "O" and (mark in ("B", "S", "O") or before in ("E", "S") or other)
        begins = mark in ("B", "S") or (mark in ("I", "E") and (before in ("O", "E", "S") or other))
        if ends and start is not None:
            found.append((start, index - 1, kind))
        start = index if begins else None if ends else start
    return found


WAYS = {
    "IOB": ({"B": "B", "I": "I"}, "{mark}-{kind}"),
    "BIOES": ({"B": "B", "I": "I", "E": "E", "S": "S"}, "{mark}-{kind}"),
    "BMES": ({"B": "B", "I": "M", "E": "E", "S": "S"}, "{mark}-{kind}"),
    "BILOU": ({"B": "B", "I": "I", "E": "L", "S": "U"}, "{mark}-{kind}"),
    "underscores": ({"B": "B", "I": "I"}, "{mark}_{kind}"),
    "suffixes": ({"B": "B", "I": "I", "E": "E", "S": "S"}, "{kind}-{mark}"),
    "small": ({"B": "b", "I": "i"}, "{mark}-{kind}"),
}


@given(st.sampled_from(list(WAYS)), st.integers(0, len(KINDS)), st.data())
def test_every_scheme_is_read_as_conlleval_reads_it(way: str, place: int, data: st.DataObject) -> None:
    marks, form = WAYS[way]
    labels = {(mark, kind): form.format(mark=spelt, kind=kind) for kind in KINDS for mark, spelt in marks.items()}
    row = data.draw(st.lists(st.sampled_from([("O", ""), *labels]), max_size=10))
    names = list(labels.values())
    names.insert(place, "O")  # "outside" may stand anywhere
    expected = conlleval(row)
    written = [labels.get(tag, "O") for tag in row]
    assert read(names, written) == expected
    assert read(sorted(names), written, collected=True) == expected


TAGS = st.lists(st.sampled_from([("O", ""), *((mark, kind) for mark in "BIES" for kind in "PL")]), max_size=8)


@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=4))
def test_measures_are_those_of_seqeval(rows: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]]) -> None:
    """Its micro average: entities of both sides, equal in place and type; 0 where there is none to divide by."""
    labels = ["O", *(f"{mark}-{kind}" for mark in "BIES" for kind in "PL")]
    rows = [(one[: len(other)], other[: len(one)]) for one, other in rows]
    ours = [
        [read(labels, [f"{m}-{k}" if k else "O" for m, k in tags]) for tags in side] for side in zip(*rows, strict=True)
    ]
    sides = [
        {(number, *e) for number, tags in enumerate(side) for e in conlleval(tags)} for side in zip(*rows, strict=True)
    ]
    found, wanted = sides
    right = len(found & wanted)
    precision, recall = (right / len(side) if side else 0.0 for side in sides)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    assert entity_scores(*ours) == pytest.approx({"precision": precision, "recall": recall, "f1": f1})


@given(st.sampled_from(list(WAYS)), st.lists(st.sampled_from(["", *KINDS]), min_size=1, max_size=8), st.booleans())
def test_entities_survive_every_scheme(way: str, kinds: list[str], long: bool) -> None:
    marks, form = WAYS[way]
    labels = [form.format(mark=spelt, kind=kind) for kind in KINDS for spelt in marks.values()] + ["O", "[PAD]"]
    width = 2 if long else 1  # tokens of an entity
    offsets = [(0, 0), *((index, index + 1) for index in range(width * len(kinds))), (0, 0)]
    spans = [Span(width * at, width * at + width - 1, kind) for at, kind in enumerate(kinds) if kind]
    assert decode(encode(spans, labels, offsets), labels, offsets) == spans


# labels in the model's order, a row, and the entities of tokens
TABLE: dict[str, tuple[list[str], str, Found]] = {
    "IOB1": (["O", "B-P", "I-P", "I-L"], "I-P I-P B-P O I-L", [(0, 1, "P"), (2, 2, "P"), (4, 4, "L")]),
    "another type begins an entity": (["O", "B-P", "I-P", "I-L"], "B-P I-L", [(0, 0, "P"), (1, 1, "L")]),
    "IOE": (["O", "I-P", "E-P"], "I-P E-P I-P I-P", [(0, 1, "P"), (2, 3, "P")]),
    "no prefixes": (["O", "PER", "LOC"], "PER PER O LOC PER", [(0, 1, "PER"), (3, 3, "LOC"), (4, 4, "PER")]),
    "types that begin as marks do": (["O", "BRAND", "ITEM", "EVENT"], "BRAND ITEM EVENT", [
        (0, 0, "BRAND"), (1, 1, "ITEM"), (2, 2, "EVENT")]),
    "types with hyphens": (["O", "E-MAIL", "URL"], "E-MAIL E-MAIL URL", [(0, 1, "E-MAIL"), (2, 2, "URL")]),
    "a type with a hyphen beside marks": (["O", "B-URL", "I-URL", "E-MAIL"], "B-URL E-MAIL E-MAIL", [
        (0, 0, "URL"), (1, 2, "E-MAIL")]),
    "cells": (["O", "B-cell", "T-cell"], "B-cell B-cell T-cell", [(0, 1, "B-cell"), (2, 2, "T-cell")]),
    "vitamins": (["O", "VITAMIN-B", "VITAMIN-E"], "VITAMIN-B VITAMIN-E", [(0, 0, "VITAMIN-B"), (1, 1, "VITAMIN-E")]),
    "the type O": (["O", "B-O", "I-O", "B-P", "I-P"], "B-O I-O O B-P", [(0, 1, "O"), (3, 3, "P")]),
    "a small o": (["b-per", "i-per", "o"], "b-per i-per o b-per", [(0, 1, "per"), (3, 3, "per")]),
    "no O": (["B-P", "I-P", "B-L", "I-L"], "B-P I-P B-L B-P", [(0, 1, "P"), (2, 2, "L"), (3, 3, "P")]),
    "no O, no prefixes": (["NOUN", "VERB"], "NOUN VERB VERB", [(0, 0, "NOUN"), (1, 2, "VERB")]),
    "padding": (["[PAD]", "B-P", "I-P", "O", "[CLS]", "<sep>"], "[CLS] B-P I-P [PAD] O <sep>", [(1, 2, "P")]),
    "another name for outside": (["NEGATIVE", "B-P", "I-P"], "NEGATIVE B-P I-P NEGATIVE", [(1, 2, "P")]),
    "the rest": (["LOC", "其他"], "其他 LOC LOC", [(1, 2, "LOC")]),
    "one type beside marks": (["O", "B-P", "I-P", "MISC"], "B-P MISC MISC O", [(0, 0, "P"), (1, 2, "MISC")]),
    "marks alone": (["B", "I", "O"], "B I B O I", [(0, 1, "_"), (2, 2, "_"), (4, 4, "_")]),
    "words": (["B", "M", "E", "S"], "B M E S B E", [(0, 2, "_"), (3, 3, "_"), (4, 5, "_")]),
    "pieces marked X": (["O", "B-P", "I-P", "X", "[CLS]", "[SEP]"], "B-P X I-P X O X", [(0, 3, "P")]),
    "single ones": (["O", "S-P", "S-L"], "S-P S-P S-L", [(0, 0, "P"), (1, 1, "P"), (2, 2, "L")]),
    "numbers": (["0", "1", "2"], "0 1 1 2 0", [(1, 2, "1"), (3, 3, "2")]),
    "made-up names": (["LABEL_0", "LABEL_1"], "LABEL_0 LABEL_1", [(1, 1, "LABEL_1")]),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_labels_as_they_are_written(case: str) -> None:
    labels, row, expected = TABLE[case]
    assert read(labels, row.split()) == expected


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["B-", "O"], "B-"),
        (["B-LOC", "I-LOC", "LOC", "O"], "LOC"),
        (["(LOC*", "*", "*)"], r"\(LOC\*"),
        (["B-LOC", "E-MAIL", "I-LOC", "O"], "E-MAIL"),
    ],
)
def test_a_label_of_another_form_in_data_is_named(labels: list[str], name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' is none of O, B-TYPE, I-TYPE"):
        read_tags(tuple(labels), collected=True)


def test_pieces_of_a_word_stay_together_in_every_scheme() -> None:
    labels, offsets = ["O", "S-P", "B-P", "E-P"], [(0, 3), (3, 6), (7, 9)]
    assert decode([1, 1, 1], labels, offsets, [False, True, False]) == [Span(0, 5, "P"), Span(7, 8, "P")]
    assert decode([2, 3, 3], labels, offsets, [False, False, True]) == [Span(0, 8, "P")]


def test_special_tokens_are_passed_over() -> None:
    offsets = [(0, 0), (0, 2), (2, 2), (2, 4), (0, 0)]
    assert decode([1, 2, 0, 2, 2], ["O", "B-P", "I-P"], offsets) == [Span(0, 3, "P")]


def test_labels_of_training_need_one_for_outside() -> None:
    assert encode([Span(1, 1, "P")], ["[PAD]", "P", "O"], [(0, 1), (1, 2)]) == [2, 1]
    with pytest.raises(InputError, match=r"outside of entities\. Add 'O'"):
        encode([], ["B-P", "I-P"], [(0, 1)])
    assert read_tags(("NOTHING", "B-P", "I-P"))[0] == OUTSIDE
    assert read_tags(("P", "B-L", "O", "I-L"))[0] == Tag("I", "P")
