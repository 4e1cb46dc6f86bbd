"""Entities, classes and vectors: batches, places of characters, errors."""

import pytest
import torch

from flagai.errors import InputError

LABELS = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
TEXTS = [
    "小明在北京大学读书",
    "",
    "iPhone15在Shanghai发布",
    "😀小明😀在ＡＢＣ公司",
    "café naïve 한국 й",
    "龘龘先生\x00住在\u200b杭州",
]
HEADS = {
    "BertForSequenceLabeling": LABELS,
    "BertForSequenceLabelingCRF": LABELS,
    "BertForSequenceLabelingGP": ["A", "B"],
}


@pytest.mark.parametrize("class_name", HEADS)
def test_entities_of_a_batch_are_those_of_its_texts(class_name, predictor):
    run = predictor("RoBERTa-base-ch", class_name, class_num=len(HEADS[class_name]))
    together = run.predict_ner(TEXTS, HEADS[class_name])
    assert together == [run.predict_ner(text, HEADS[class_name]) for text in TEXTS]
    for text, entities in zip(TEXTS, together, strict=True):
        for start, end, label in entities:
            assert 0 <= start <= end < len(text)
            assert label in {"LOC", "ORG", "PER", "A", "B"}
    assert any(together)
    assert run.predict_ner([], HEADS[class_name]) == []


def test_wrong_labels_are_named(predictor):
    run = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=7)
    with pytest.raises(InputError, match="3 labels, but the model knows 7"):
        run.predict_ner("今天", LABELS[:3])
    with pytest.raises(InputError, match="expected a list of names"):
        run.predict_ner("今天", "O,B-LOC")
    with pytest.raises(InputError, match="'B-' is none of O, B-TYPE"):
        run.predict_ner("今天", ["O", "B-", "I-", *"abcd"])
    with pytest.raises(InputError, match="does not name its 7 classes"):
        run.predict_ner("今天")
    run.model.config = run.model.config.replace(extra={"id2label": {str(n): f"LABEL_{n}" for n in range(7)}})
    try:
        with pytest.raises(InputError, match="does not name its 7 classes"):
            run.predict_ner("今天")
    finally:
        run.model.config = run.model.config.replace(extra={})
    pointer = predictor("RoBERTa-base-ch", "BertForSequenceLabelingGP", class_num=7)
    with pytest.raises(InputError, match="types alone"):
        pointer.predict_ner("今天", LABELS)


def test_labels_may_come_from_the_configuration(predictor):
    names = {str(number): label for number, label in enumerate(LABELS)}
    run = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=7)
    expected = run.predict_ner(TEXTS, LABELS)
    run.model.config = run.model.config.replace(extra={"id2label": names})
    try:
        assert run.predict_ner(TEXTS) == expected
    finally:
        run.model.config = run.model.config.replace(extra={})


PAIRS = [["后悔了吗", "你有没有后悔"], ["打开自动横屏", "开启移动数据"], ["一", "二"]]


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("RoBERTa-base-ch", "BertForClsClassifier"), ("GLM-large-ch", "GLMForSequenceClassification")],
)
def test_classes_of_texts_and_pairs(name, class_name, predictor):
    run = predictor(name, class_name, class_num=4)
    alone = [run.predict_cls_classifier(pair) for pair in PAIRS]
    assert all(isinstance(number, int) and 0 <= number < 4 for number in alone)
    assert run.predict_cls_classifier(PAIRS) == alone
    assert isinstance(run.predict_cls_classifier("今天"), int)
    two = run.predict_cls_classifier([["今天"], ["明天"]])
    assert two == [run.predict_cls_classifier("今天"), run.predict_cls_classifier("明天")]
    probabilities = run.class_probabilities(PAIRS)
    assert torch.allclose(probabilities.sum(-1), torch.ones(3))
    assert run.predict_cls_classifier([]) == []


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("GLM-large-ch", "GLMModel"),
        ("GLM-large-ch", "GLMForSeq2Seq"),
        ("GPT2-base-ch", "GPT2Model"),
        ("T5-base-ch", "T5Model"),
        ("RoBERTa-base-ch", "BertForSeq2seq"),
    ],
)
def test_language_models_classify_by_the_names_of_classes(name, class_name, predictor):
    run = predictor(name, class_name)
    labels = ["好", "不好", "很好"]
    found = run.class_probabilities(["今天天气不错", "明天下雨"], labels=labels)
    assert found.shape == (2, 3)
    alone = run.class_probabilities(["明天下雨"], labels=labels)
    assert torch.allclose(found[1:], alone, atol=1e-5)
    swapped = run.class_probabilities(["明天下雨"], labels=labels[::-1])
    assert torch.allclose(swapped.flip(1), alone, atol=1e-5)
    with pytest.raises(InputError, match="labels="):
        run.predict_cls_classifier("今天")


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("RoBERTa-base-ch", "BertForEmbedding"),
        ("RoBERTa-base-ch", "BertModel"),
        ("GLM-large-ch", "GLMModel"),
        ("GPT2-base-ch", "GPT2Model"),
        ("T5-base-ch", "T5Model"),
    ],
)
def test_vectors_of_a_batch_are_those_of_its_texts(name, class_name, predictor):
    run = predictor(name, class_name)
    texts = ["今天天气不错", "好", "可穿戴产品的设计原则，以及它们的十大特点"]
    together = run.predict_embedding(texts)
    assert together.shape == (3, 12)
    assert together.dtype == torch.float32
    for text, vector in zip(texts, together, strict=True):
        assert torch.allclose(run.predict_embedding(text), vector, atol=1e-5)
    assert not torch.allclose(run.predict_embedding(texts[2], maxlen=5), together[2], atol=1e-5)


def test_masked_words_of_a_batch(predictor):
    run = predictor("RoBERTa-base-ch", "BertForMaskLM")
    texts = ["[MASK]京是首都", "今天天气很[MASK]", ""]
    assert run.predict_masklm(texts) == [run.predict_masklm(text) for text in texts]


@pytest.mark.parametrize("text", ["", "\x00", "\ud800", "😀", "a" * 1_000_000])
def test_strange_texts_are_read(text, predictor):
    ner = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=7)
    assert isinstance(ner.predict_ner(text, LABELS), list)
    assert predictor("RoBERTa-base-ch", "BertForEmbedding").predict_embedding(text).shape == (12,)


def test_models_say_what_they_cannot_do(predictor):
    run = predictor("GPT2-base-ch", "GPT2Model")
    for call in (run.predict_masklm, lambda text: run.predict_ner(text, LABELS)):
        with pytest.raises(InputError, match="it can do write"):
            call("今天")
