"""BERT's inputs equal those of the original; truncation never exceeds the length that was asked for."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flagai.data.prepare import bert
from flagai.data.prepare.batch import padded
from flagai.data.prepare.labels import Span, decode, encode
from flagai.data.tokenizer.formats import kept_lengths
from flagai.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"
LABELS = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def test_a_source_and_its_target_are_two_segments(bert_tokenizer):
    data = golden("inputs_bert_seq2seq")
    sources, targets = zip(*((row["a"], row["b"]) for row in data["rows"]), strict=True)
    batch = bert.seq2seq(bert_tokenizer, sources, targets)
    for row, ids, segments in zip(data["rows"], batch["input_ids"], batch["segment_ids"], strict=True):
        if len(row["out"]["input_ids"]) > 16:
            continue  # the original had to cut
        length = len(row["out"]["input_ids"])
        assert ids[:length].tolist() == row["out"]["input_ids"]
        assert segments[:length].tolist() == row["out"]["token_type_ids"]
        assert not ids[length:].any()
    assert torch.equal(batch["labels"], batch["input_ids"][:, 1:])


def test_a_batch_is_padded_as_in_the_original(bert_tokenizer):
    data = golden("inputs_bert_seq2seq")
    sources, targets = zip(*((row["a"], row["b"]) for row in data["rows"]), strict=True)
    # The original lets a row of "at most 14" have 17 tokens.
    batch = bert.seq2seq(bert_tokenizer, sources, targets, max_length=17)
    assert batch["input_ids"].tolist() == data["collate"]["input_ids"]
    assert batch["segment_ids"].tolist() == data["collate"]["segment_ids"]
    assert batch["labels"].tolist() == data["collate"]["labels"]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 40))
def test_two_texts_are_cut_evenly(first, second, room):
    lengths = kept_lengths([first, second], room)
    own, other = list(range(lengths[0])), list(range(100, 100 + lengths[1]))
    assert len(own) + len(other) == min(first + second, room)
    assert own == list(range(len(own)))
    expected = [list(range(first)), list(range(100, 100 + second))]
    while len(expected[0]) + len(expected[1]) > room:
        expected[0 if len(expected[0]) > len(expected[1]) else 1].pop()
    assert [own, other] == expected


def test_rows_never_exceed_the_length(bert_tokenizer):
    for length in (4, 5, 9):
        rows = bert.rows(bert_tokenizer, ["今天天气很好", ("今天天气", "很好"), ""], length)
        assert all(len(row.ids) <= length for row in rows)
        assert all(len(row.ids) == len(row.segments) == len(row.offsets) for row in rows)
    with pytest.raises(InputError, match="leaves no room"):
        bert.rows(bert_tokenizer, ["今天"], 2)


def test_wrong_entries_are_named(bert_tokenizer):
    with pytest.raises(InputError, match="Text 1 is int"):
        bert.rows(bert_tokenizer, ["今天", 3])
    with pytest.raises(InputError, match="Text 0 is list"):
        bert.rows(bert_tokenizer, [["a", "b", "c"]])
    with pytest.raises(InputError, match="at least one row"):
        padded([], 0)


def test_labels_of_the_original_mean_the_same_entities():
    """Where they keep the scheme's rules; elsewhere the original drops I- after O and joins different types."""
    data = golden("ner_crf_and_labels")
    kept = 0
    for case in data["decode_labels"]:
        names = [data["target"][number] for number in case["labels"]]
        if any(name[0] == "I" and before[1:] != name[1:] for before, name in pairwise(["O", *names])):
            continue
        offsets = [(index, index + 1) for index in range(len(names))]
        expected = [(tokens[0], tokens[-1], label) for tokens, label in case["entities"]]
        found = [(span.start, span.end, span.label) for span in decode(case["labels"], data["target"], offsets)]
        assert found == expected, case
        kept += 1
    assert kept


@given(st.lists(st.sampled_from(["", "LOC", "PER"]), min_size=1, max_size=12))
def test_entities_survive_the_way_to_labels_and_back(kinds):
    text_offsets = [(0, 0), *((2 * index, 2 * index + 2) for index in range(len(kinds))), (0, 0)]
    spans = [Span(2 * index, 2 * index + 1, kind) for index, kind in enumerate(kinds) if kind]
    assert decode(encode(spans, LABELS, text_offsets), LABELS, text_offsets) == spans


def test_a_piece_inside_of_a_word_opens_no_second_entity_of_its_type():
    offsets, inner = [(0, 6), (6, 11), (12, 14)], [False, True, False]
    assert decode([1, 1, 1], LABELS, offsets, inner) == [Span(0, 10, "LOC"), Span(12, 13, "LOC")]
    assert decode([1, 3, 0], LABELS, offsets, inner) == [Span(0, 5, "LOC"), Span(6, 10, "ORG")]
    assert decode([0, 1, 0], LABELS, offsets, inner) == [Span(6, 10, "LOC")]


def test_entities_that_cut_a_token_are_left_out_and_unknown_types_named():
    offsets = [(0, 0), (0, 6), (6, 8), (0, 0)]
    assert encode([Span(1, 3, "LOC"), Span(0, 7, "ORG")], LABELS, offsets) == [0, 3, 4, 0]
    with pytest.raises(InputError, match="type 'CAR'"):
        encode([Span(0, 7, "CAR")], LABELS, offsets)


def test_entities_become_labels_of_tokens_and_of_spans(bert_tokenizer):
    texts, entities = ["小明在北京", "上海"], [[Span(0, 1, "PER"), Span(3, 4, "LOC")], [Span(0, 1, "LOC")]]
    batch = bert.labelling(bert_tokenizer, texts, entities, LABELS)
    assert batch["labels"].tolist() == [[0, 5, 6, 0, 1, 2, 0], [0, 1, 2, 0, -100, -100, -100]]
    spans = bert.span_labelling(bert_tokenizer, texts, entities, ["LOC", "PER"])["labels"]
    assert spans.nonzero().tolist() == [[0, 0, 4, 5], [0, 1, 1, 2], [1, 0, 1, 2]]
    with pytest.raises(InputError, match="'LOC'"):
        bert.span_labelling(bert_tokenizer, texts, entities, ["PER"])
