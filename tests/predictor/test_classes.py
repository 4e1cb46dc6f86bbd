"""Classifiers with one output, with classes by themselves and with numbers: as transformers' pipeline reads them."""

import json

import pytest
import torch
import transformers
from typer.testing import CliRunner

from flagai import cli
from flagai.data.tokenizer import Tokenizer
from flagai.data.tokenizer.sentencepiece_engine import SentencePieceEngine
from flagai.errors import InputError
from flagai.model.bert_model import BertForClsClassifier
from flagai.model.predictor import encoder_heads as reading
from flagai.model.predictor.predictor import Predictor
from tests import folders, tiny

TEXTS = [["后悔了吗", "你有没有后悔"], "打开自动横屏", ["北京", "上海"]]
READINGS = {
    "one class": (3, None, lambda logits: logits.softmax(-1)),
    "one class, in words": (3, "single_label_classification", lambda logits: logits.softmax(-1)),
    "classes by themselves": (3, "multi_label_classification", torch.sigmoid),
    "one output": (1, None, torch.sigmoid),
    "one output, by itself": (1, "multi_label_classification", torch.sigmoid),
    "a number": (1, "regression", lambda logits: logits),
    "numbers": (2, "regression", lambda logits: logits),
}


@pytest.mark.parametrize("case", READINGS)
def test_outputs_become_probabilities(case, predictor):
    classes, problem, meaning = READINGS[case]
    run = predictor("RoBERTa-base-ch", "BertForClsClassifier", class_num=classes, problem_type=problem)
    logits = reading.class_logits(run.model, run.tokenizer, TEXTS, 512)
    torch.testing.assert_close(run.class_probabilities(TEXTS), meaning(logits), atol=1e-5, rtol=1e-5)
    if case.startswith("one class"):
        assert run.predict_cls_classifier(TEXTS) == logits.argmax(-1).tolist()
    else:
        with pytest.raises(InputError, match=r"no classes that exclude each other.*class_probabilities"):
            run.predict_cls_classifier(TEXTS)


@pytest.mark.parametrize("case", [case for case in READINGS if case != "one class, in words"])
def test_losses_are_those_of_transformers(case, tmp_path):
    classes, problem, _ = READINGS[case]
    theirs = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=31,
            hidden_size=12,
            num_hidden_layers=1,
            num_attention_heads=3,
            intermediate_size=20,
            num_labels=classes,
            problem_type=problem,
        )
    ).eval()
    tiny.randomised(theirs, std=0.2).save_pretrained(tmp_path)
    ids = tiny.ids(31, 4, 6)
    labels = torch.tensor([0, 2, 1, 1]) if case == "one class" else torch.rand(4, classes)
    with torch.no_grad():
        got = BertForClsClassifier.from_pretrained(tmp_path)(ids, labels=labels)["loss"]
        want = theirs(ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    if case != "one class":
        with pytest.raises(InputError, match="labels have shape"):
            BertForClsClassifier.from_pretrained(tmp_path)(ids, labels=labels[:2])


def called(*arguments):
    result = CliRunner().invoke(cli.app, arguments)
    return result.output if result.exception is None else result.exception


def test_commands_print_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAGAI_HOME", str(tmp_path))
    for name, classes, problem in (("one", 1, None), ("each", 2, "multi_label_classification"), ("three", 3, None)):
        folders.write(
            tmp_path, "RoBERTa-base-ch", "BertForClsClassifier", folder=name, class_num=classes, problem_type=problem
        )
        folders.vocabularies.put(tmp_path, "RoBERTa-base-ch")
        (tmp_path / name / "vocab.txt").write_bytes((tmp_path / "RoBERTa-base-ch" / "vocab.txt").read_bytes())
    one = Predictor(
        BertForClsClassifier.from_pretrained(tmp_path / "one"), folders.tokenizer(tmp_path, "RoBERTa-base-ch")
    )
    (score,) = one.class_probabilities([["北京", "上海"]])[0].tolist()
    assert called("match", "北京", "上海", "--model", "one", "--device", "cpu").strip() == f"{score:.4f}"
    found = json.loads(called("classify", "北京", "--model", "each", "--json", "--device", "cpu"))
    assert "class" not in found
    assert list(found["scores"]) == ["0", "1"]
    assert len(called("classify", "北京", "--model", "each", "--device", "cpu").splitlines()) == 2
    refused = called("match", "北京", "上海", "--model", "three", "--device", "cpu")
    assert isinstance(refused, InputError)
    assert "3 classes" in str(refused)


def test_a_plain_glm_reads_a_text_once_for_all_labels(predictor, monkeypatch):
    run = predictor("GLM-large-ch", "GLMModel")
    text, labels, read = "今天天气很好，我们去公园" * 9, ["好", "不好"], []
    encode = SentencePieceEngine.encode_ids
    monkeypatch.setattr(
        SentencePieceEngine, "encode_ids", lambda self, texts: read.extend(texts) or encode(self, texts)
    )
    cut = run.class_probabilities([text], 40, labels)
    assert sum("公园" in each for each in read) == 1
    room = 40 - max(len(run.tokenizer.encode(label)) for label in labels) - 4
    kept = run.tokenizer.decode(run.tokenizer.encode(text)[:room])
    torch.testing.assert_close(cut, run.class_probabilities([f"{kept} [MASK]"], 40, labels))


def test_parts_of_two_models_are_named(predictor):
    chinese, english = (predictor(name, "BertModel") for name in ("RoBERTa-base-ch", "BERT-base-en"))
    with pytest.raises(
        InputError, match=r"Tokenizer\('BERT-base-en'.* of .*BERT-base-en has ids up to 30521, .*BertModel "
    ):
        Predictor(chinese.model, english.tokenizer)
    glm = predictor("GLM-large-ch", "GLMModel")
    with pytest.raises(InputError, match="has ids up to 50010, but this GLMModel has an embedding of 50000 rows"):
        Predictor(tiny.build("GLMModel", vocab_size=50000), glm.tokenizer)


def test_labels_are_encoded_once(predictor, monkeypatch):
    run = predictor("GLM-large-ch", "GLMModel")
    seen = []
    for name in ("encode", "encode_many"):
        plain = getattr(Tokenizer, name)

        def count(self, texts, plain=plain):
            seen.extend([texts] if isinstance(texts, str) else texts)
            return plain(self, texts)

        monkeypatch.setattr(Tokenizer, name, count)
    run.class_probabilities(["今天", "明天", "春江"], labels=["好", "坏"])
    assert (seen.count("好"), seen.count("坏")) == (1, 1)
