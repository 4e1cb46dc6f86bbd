"""Entities of texts that are longer than the model reads at once."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flagai.data.prepare.bert import BertInput
from flagai.errors import InputError
from flagai.model.bert_model import BertForSequenceLabeling, BertForSequenceLabelingGP
from flagai.model.layer import PackedRow
from flagai.model.predictor.text_windows import joined, windows_of

LABELS = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
SENTENCE = "小明在北京大学读书，"  # 10 tokens
ENTITIES = [(0, 1, "PER"), (3, 4, "LOC")]


@given(st.integers(2, 60), st.integers(3, 20))
def test_every_token_is_answered_for_once_by_a_window_around_it(count, size):
    row = BertInput(list(range(count)), [0] * count, [(0, 0)] * count, [False] * count)
    windows = windows_of([row, row], size)
    answers = [torch.tensor(window.row.ids) for window in windows]
    assert [found.tolist() for found in joined(windows, answers)] == [row.ids, row.ids]
    for window in windows:
        assert len(window.row.ids) == min(size, count)
        shared = (size - 2) // 4 // 2  # on each side of what it answers for
        begin, end = window.begin, window.begin + len(window.row.ids)
        assert window.own.start == 0 or window.own.start - begin > shared
        assert window.own.stop == count or end - window.own.stop > shared


def test_windows_need_room():
    with pytest.raises(InputError, match="leaves no room"):
        windows_of([BertInput([0] * 9, [0] * 9, [(0, 0)] * 9, [False] * 9)], 2)


def _spans(ids, wanted):
    """The first and last places of a row of ids in another."""
    width = len(wanted)
    return [at for at in range(len(ids) - width + 1) if ids[at : at + width] == wanted]


@pytest.mark.parametrize("class_name", ["BertForSequenceLabeling", "BertForSequenceLabelingCRF"])
@pytest.mark.parametrize("lead", [0, 3, 7])
def test_entities_of_a_long_text_are_those_of_its_sentences(class_name, lead, predictor, monkeypatch):
    run = predictor("RoBERTa-base-ch", class_name, class_num=7)
    limit = run.model.config.longest_text
    tags = dict(zip(run.tokenizer.EncodeAsIds("小明北京"), (5, 6, 1, 2), strict=True))

    def forward(self, input_ids, lengths, token_type_ids):
        assert max(lengths.lengths) <= limit
        numbers = torch.tensor([[tags.get(number, 0) for number in input_ids[0].tolist()]])
        return {"logits": torch.nn.functional.one_hot(numbers, 7) * 10.0}

    monkeypatch.setattr(BertForSequenceLabeling, "forward", forward)
    if class_name.endswith("CRF"):
        torch.nn.init.zeros_(run.model.crf.transitions)
    _check(run, LABELS, lead, limit)


@pytest.mark.parametrize("lead", [0, 3, 7])
def test_spans_of_a_long_text_are_those_of_its_sentences(lead, predictor, monkeypatch):
    run = predictor("RoBERTa-base-ch", "BertForSequenceLabelingGP", class_num=2)
    limit = run.model.config.longest_text
    person, place = (run.tokenizer.EncodeAsIds(text) for text in ("小明", "北京"))

    def forward(self, input_ids, lengths, token_type_ids):
        texts = PackedRow.of(lengths).split(input_ids)
        width = max(len(text) for text in texts)
        assert width <= limit
        scores = torch.full((len(texts), 2, width, width), -5.0)
        for index, text in enumerate(texts):
            for kind, wanted in enumerate((place, person)):
                for at in _spans(text.tolist(), wanted):
                    scores[index, kind, at, at + 1] = 2.0
        return {"logits": scores}

    monkeypatch.setattr(BertForSequenceLabelingGP, "forward", forward)
    _check(run, ["LOC", "PER"], lead, limit)


def _check(run, labels, lead, limit):
    count = 3 * limit // len(SENTENCE)
    long = "的" * lead + SENTENCE * count
    expected = [
        (lead + start + number * len(SENTENCE), lead + end + number * len(SENTENCE), label)
        for number in range(count)
        for start, end, label in ENTITIES
    ]
    short, found = run.predict_ner([SENTENCE, long], labels)
    assert sorted(short) == ENTITIES
    assert sorted(found) == expected


def test_what_a_length_cuts_off_is_said(predictor, caplog):
    run = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=7)
    with caplog.at_level(logging.WARNING):
        run.predict_ner([SENTENCE, SENTENCE * 3, SENTENCE * 2], LABELS, 12)
        run.predict_ner(SENTENCE * 100, LABELS)
    (record,) = caplog.records
    assert record.getMessage() == (
        "Text 1 has 32 tokens, of which maxlen=12 are read: not its characters from 10 on (and so 1 more texts). "
        "Leave maxlen out to read texts of any length."
    )
    cut = run.predict_ner(SENTENCE * 3, LABELS, 12)
    assert cut == run.predict_ner(SENTENCE, LABELS, 12)
