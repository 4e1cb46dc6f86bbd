"""How sure a model is of its entities, and a long text beside its parts."""

import pytest
import torch

from flagai.model.predictor.predictor import Predictor
from tests import folders

TAGS = ["O", "B-LOC", "I-LOC"]
TEXTS = ["小明在北京大学读书。", "上海", "今天天气不错，我们去公园。", ""]
HEADS = {
    "BertForSequenceLabeling": TAGS,
    "BertForSequenceLabelingCRF": TAGS,
    "BertForSequenceLabelingGP": ["LOC", "PER"],
}


@pytest.fixture(params=HEADS)
def run(request, predictor):
    """A tagger with random weights, and its labels."""
    labels = HEADS[request.param]
    made = folders.model("RoBERTa-base-ch", request.param, class_num=len(labels))
    generator = torch.Generator().manual_seed(4)
    for parameter in made.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    tokenizer = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=7).tokenizer
    return Predictor(made, tokenizer, allow_untrained=True), labels


def test_scores_are_the_means_of_probabilities_or_the_spans_scores(run):
    predictor, labels = run
    model = predictor.model
    found = predictor.predict_ner(TEXTS, labels)
    assert any(found)
    for text, entities in zip(TEXTS, found, strict=True):
        ids = torch.tensor([[101, *predictor.tokenizer.EncodeAsIds(text), 102]])
        with torch.no_grad():
            logits = model(ids)["logits"]
        if logits.dim() == 3:
            outside = {"first": [0]}
            valid = torch.ones_like(ids, dtype=torch.bool)
            crf = getattr(model, "crf", None)
            path = logits.argmax(-1) if crf is None else crf.decode(logits, valid, **outside)
            table = logits.softmax(-1) if crf is None else crf.marginals(logits, valid, **outside)
            chosen = table[0].gather(-1, path[0][:, None])[:, 0]
        for entity in entities:
            first, last = entity.start + 1, entity.end + 1  # one token a character
            right = (
                chosen[first : last + 1].mean()
                if logits.dim() == 3
                else logits[0, labels.index(entity.type), first, last]
            )
            assert entity.score == pytest.approx(right.item(), abs=1e-4)
            assert entity.score > (1 / 3 if logits.dim() == 3 and crf is None else 0)


def test_entities_of_20000_characters_are_those_of_parts(run):
    """Away from the borders of its windows, a text's entities and their scores are those of parts of it alone."""
    predictor, labels = run
    sentence = "小明在北京大学读书，后来又去了上海。"
    length = 20000 if "O" in labels else 2000  # a random GlobalPointer finds half of all spans
    whole = (sentence * (length // len(sentence) + 1))[:length]
    found = predictor.predict_ner(whole, labels)
    limit = predictor.model.config.longest_text
    size, step = limit - 2, (limit - 2) - (limit - 2) // 4  # a window's characters, and how far the next one begins
    assert found
    for number in (0, length // 300, length // 150):
        begin = number * step
        part = predictor.predict_ner(whole[begin : begin + size], labels)
        # What the window answers for, without the entities at its border.
        low, high = begin + size // 8 + 8, begin + size - size // 8 - 8
        inside = [(start + begin, end + begin, kind, score) for start, end, kind, _, score in map(_fields, part)]
        inside = [row for row in inside if low <= row[0] and row[1] < high]
        mine = [(e.start, e.end, e.type, e.score) for e in found if low <= e.start and e.end < high]
        assert [row[:3] for row in mine] == [row[:3] for row in inside]
        assert [row[3] for row in mine] == pytest.approx([row[3] for row in inside], abs=1e-3)


def _fields(entity):
    return entity.start, entity.end, entity.type, entity.text, entity.score
