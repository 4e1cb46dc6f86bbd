"""A head that a checkpoint does not have answers by chance: an error until it is trained, unless asked for."""

import copy
import pickle

import pytest
import torch
from typer.testing import CliRunner

from flagai import cli
from flagai.auto_model.auto_loader import AutoLoader
from flagai.errors import InputError, ModelNotFoundError
from flagai.model.predictor.predictor import Predictor
from flagai.model.untrained import untrained
from tests import folders

NER = ["O", "B-LOC", "I-LOC"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    folders.write(home, "RoBERTa-base-ch", "BertForSequenceLabeling", class_num=3)
    folders.write(home, "GLM-large-ch", "GLMModel")
    return home


def load(home, task, name="RoBERTa-base-ch", **options):
    loader = AutoLoader(task, name, home, device="cpu", fine_tuned=False, **options)
    return loader.get_model(), loader.get_tokenizer()


CALLS = {
    "title-generation": lambda run: run.write("今天", out_max_length=2),
    "masklm": lambda run: run.fill_blanks("今[MASK]"),
    "ner-crf": lambda run: run.predict_ner("今天", NER),
    "classification": lambda run: run.class_probabilities(["今天"]),
    "semantic-matching": lambda run: run.predict_cls_classifier(("今天", "明天")),
}


@pytest.mark.parametrize("task", CALLS)
def test_an_untrained_head_is_an_error_unless_asked_for(home, task):
    parts = load(home, task, **({"class_num": 3} if task in ("ner-crf", "classification") else {}))
    with pytest.raises(InputError, match="is randomly initialized: its checkpoint has no"):
        CALLS[task](Predictor(*parts))
    CALLS[task](Predictor(*parts, allow_untrained=True))


def test_a_glm_without_a_head_is_an_error_at_the_command_line_too(home):
    parts = load(home, "classification", "GLM-large-ch", class_num=2)
    with pytest.raises(InputError, match="randomly initialized"):
        Predictor(*parts).predict_cls_classifier("今天")
    for command in (["title", "今天"], ["classify", "今天"], ["fill", "今[MASK]"], ["ner", "今天", "--head", "gp"]):
        options = ["--model", "RoBERTa-base-ch", "--model-dir", str(home), "--device", "cpu"]
        result = CliRunner().invoke(cli.app, [*command, *options])
        assert "randomly initialized" in str(result.exception), command


def test_what_was_trained_or_drawn_on_purpose_answers(home):
    for task, call in (
        ("ner", lambda run: run.predict_ner("今天", NER)),
        ("embedding", lambda run: run.predict_embedding("今")),
    ):
        assert not untrained(load(home, task)[0])
        call(Predictor(*load(home, task)))
    drawn = load(home, "classification", class_num=2, only_download_config=True)
    assert Predictor(*drawn).predict_cls_classifier("今天") in (0, 1)


@pytest.mark.parametrize("change", [lambda model: model, lambda model: model.bfloat16(), copy.deepcopy])
def test_one_step_of_training_is_enough(home, change):
    model, tokenizer = load(home, "classification", class_num=2)
    model = pickle.loads(pickle.dumps(change(model)))
    assert untrained(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.tensor([[101, 5, 102]]), labels=torch.tensor([1]))["loss"].backward()
    optimizer.step()
    assert not untrained(model)
    assert Predictor(model, tokenizer).predict_cls_classifier("今天") in (0, 1)


def test_a_list_of_two_texts_is_one_pair_with_a_warning(predictor, caplog):
    from flagai.model.predictor.arguments import tell_of_pairs

    run = predictor("RoBERTa-base-ch", "BertForClsClassifier", class_num=2)
    tell_of_pairs.cache_clear()
    for quiet in (("今", "天"), [["今"], ["天"]], [["今", "天"]], ["今", "天", "好"], "今"):
        run.predict_cls_classifier(quiet)
    assert not caplog.records
    assert isinstance(run.predict_cls_classifier(["今", "天"]), int)
    assert "Write [[a], [b]] for two texts" in caplog.text


def test_flagais_positional_arguments(home):
    arguments = ("embedding", "RoBERTa-base-ch", home, False, "cpu", torch.float32, True, None, None, True, None, False)
    assert AutoLoader(*arguments).get_model().device.type == "cpu"
    with pytest.raises(ModelNotFoundError, match="adapter has no adapter_config"):
        AutoLoader(*arguments[:7], "adapter")
