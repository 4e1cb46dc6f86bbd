"""The Predictor's methods choose an adapter for a call; a head that an adapter brings is a trained one."""

from pathlib import Path
from typing import Any

import pytest
import torch

import flagai
from flagai.errors import InputError
from flagai.model.predictor.predictor import Predictor
from flagai.model.untrained import note_untrained
from tests import folders
from tests.adapters.made import with_adapters


def test_methods_of_the_predictor_choose_an_adapter(predictor: Any) -> None:
    tokenizer = predictor("GPT2-base-ch", "GPT2Model").tokenizer
    writer = Predictor(with_adapters(folders.model("GPT2-base-ch", "GPT2Model"), "a", "b"), tokenizer)
    calls: list[Any] = [
        lambda **more: writer.write("今天", out_max_length=6, **more),
        lambda **more: [*writer.stream("今天", out_max_length=6, **more)],
        lambda **more: [*writer.write_each(["今天"], out_max_length=6, **more)],
        lambda **more: writer.predict_generate_beamsearch("今天", out_max_length=6, beam_size=2, **more),
        lambda **more: writer.predict_embedding("今天", **more).tolist(),
        lambda **more: writer.class_probabilities(["今天"], labels=["好", "坏"], **more).tolist(),
    ]
    for call in calls:
        answers = [call(adapter=name) for name in ("a", "b", "base")]
        assert answers[2] == call() != answers[0] != answers[1]
        with writer.model.use_adapter("b"):
            assert call() == answers[1]
            assert call(adapter="a") == answers[0]
        with pytest.raises(InputError, match=r"no adapter 'c'. Known: base, a, b"):
            call(adapter="c")


def test_a_head_comes_with_its_adapter(predictor: Any, tmp_path: Path) -> None:
    """Of a head that no checkpoint had, only what an adapter has learned is an answer."""
    tokenizer = predictor("RoBERTa-base-ch", "BertForClsClassifier", class_num=3).tokenizer
    trained = folders.model("RoBERTa-base-ch", "BertForClsClassifier", class_num=3)
    trained.add_adapter("mood", 2)
    torch.nn.init.normal_(trained.classifier.weight)
    trained.save_adapter(tmp_path / "mood", "mood")
    model = folders.model("RoBERTa-base-ch", "BertForClsClassifier", class_num=3)
    model.load_adapter(tmp_path / "mood")
    torch.nn.init.normal_(model.classifier.weight)
    note_untrained(model, ["classifier.weight", "classifier.bias"])
    run = Predictor(model, tokenizer)
    assert run.classify("今天", adapter="mood") == Predictor(trained, tokenizer).classify("今天")
    with pytest.raises(InputError, match="randomly initialized"):
        run.classify("今天")
    model.set_adapter("mood")
    assert run.classify("今天") == Predictor(trained, tokenizer).classify("今天")


def test_a_pipeline_loads_adapters_by_name(tmp_path: Path) -> None:
    folders.write(tmp_path, "RoBERTa-base-ch", "BertModel")
    with_adapters(folders.model("RoBERTa-base-ch", "BertModel"), "law").save_adapter(tmp_path / "law", "law")
    where = {"download_path": tmp_path, "device": "cpu"}
    one = flagai.load("embedding", "RoBERTa-base-ch", adapter=tmp_path / "law", **where)
    several = flagai.load("embedding", "RoBERTa-base-ch", adapter={"x": tmp_path / "law"}, **where)
    assert torch.equal(one("今天"), several("今天", adapter="x"))
    assert torch.equal(one("今天", adapter="base"), several("今天"))
    assert not torch.equal(one("今天"), several("今天"))


def test_the_head_of_an_adapter_says_the_number_of_classes(tmp_path: Path) -> None:
    """The base model has no head; nobody says how many classes there are."""
    folders.write(tmp_path, "RoBERTa-base-ch", "BertModel")
    trained = folders.model("RoBERTa-base-ch", "BertForClsClassifier", class_num=3)
    trained.add_adapter("mood", 2)
    trained.save_adapter(tmp_path / "mood", "mood")
    tell = flagai.load(
        "classification", "RoBERTa-base-ch", download_path=tmp_path, device="cpu", adapter=tmp_path / "mood"
    )
    assert len(tell("今天").scores) == 3
