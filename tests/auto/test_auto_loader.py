"""Any task with any model for which it makes sense, by any of their names."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from flagai.auto_model.auto_loader import AutoLoader
from flagai.auto_model.lookup import class_names_by_family
from flagai.auto_model.registry import class_named
from flagai.catalog.tasks import ALIASES, TASKS
from flagai.checkpoint import reader
from flagai.data.tokenizer import Tokenizer
from flagai.errors import ConfigError, InputError, LoadError, ModelNotFoundError
from flagai.loading import load
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.model.predictor.predictor import Predictor
from tests import folders, tiny

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "autoloader_table.json").read_text(encoding="utf-8"))
BACKBONES = {
    "GLM-large-ch": "GLMModel",
    "RoBERTa-base-ch": "BertForMaskLM",
    "BERT-base-en": "BertForMaskLM",
    "GPT2-base-ch": "GPT2Model",
    "T5-base-ch": "T5Model",
    "T5-base-en": "T5Model",
}
# The original maps these to the plain class by mistake.
MENDED = {"sequence-labeling-crf": "BertForSequenceLabelingCRF", "sequence-labeling-gp": "BertForSequenceLabelingGP"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    for name, class_name in BACKBONES.items():
        folders.write(home, name, class_name, **({"class_num": None} if "BERT" in name.upper() else {}))
    return home


def pairs():
    for key, expected in GOLDEN["table"].items():
        name, task = key.split("|")
        if expected is not None and name in BACKBONES:
            yield name, task, MENDED.get(task, expected)


@pytest.mark.parametrize(("name", "task", "expected"), list(pairs()))
def test_the_originals_table(name, task, expected, home):
    loader = AutoLoader(task, model_name=name, model_dir=home, class_num=3, inner_dim=4, device="cpu")
    assert type(loader.get_model()).__name__ == expected
    assert not loader.get_model().training
    assert loader.get_tokenizer().encode("hello")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["GLM-large-ch", "RoBERTa-base-ch", "GPT2-base-ch", "T5-base-en"])
def test_every_pair_works_or_says_who_can(name, task, home):
    family = {"GLM": "glm", "RoB": "bert", "GPT": "gpt2", "T5-": "t5"}[name[:3]]
    if family not in class_names_by_family(task):
        with pytest.raises(InputError, match=f"cannot do '{task}'. It can: .*lm"):
            AutoLoader(task, model_name=name, model_dir=home, class_num=3)
        return
    loader = AutoLoader(task, model_name=name, model_dir=home, class_num=3, device="cpu")
    run = Predictor(loader.get_model(), loader.get_tokenizer(), allow_untrained=True)
    labels = ["good", "bad", "fair"] if name.endswith("-en") else ["好", "坏", "中"]
    calls = {
        "ner": lambda: run.predict_ner("今天", ["O", "B-A", "I-A"]),
        "ner-crf": lambda: run.predict_ner("今天", ["O", "B-A", "I-A"]),
        "ner-gp": lambda: run.predict_ner("今天", ["A", "B", "C"]),
        "masklm": lambda: run.fill_blanks("今[MASK]", out_max_length=2),
        "classification": lambda: run.predict_cls_classifier("今天", labels=labels),
        "semantic-matching": lambda: run.predict_cls_classifier(["今天", "明天"], labels=labels),
        "embedding": lambda: run.predict_embedding("今天"),
    }
    default = run.predict_embedding if (family, task) == ("bert", "lm") else run.predict_generate_beamsearch
    assert calls.get(task, lambda: default("今天"))() is not None


@pytest.mark.parametrize("alias", ALIASES)
def test_other_names_of_tasks(alias, home):
    name = "RoBERTa-base-ch"
    loader = AutoLoader(alias.replace("-", "_").upper(), model_name=name, model_dir=home, class_num=3, device="cpu")
    assert type(loader.get_model()) is class_named(class_names_by_family(ALIASES[alias])["bert"])


def test_a_fine_tuned_folder_is_found_first(tmp_path):
    folders.write(tmp_path, "RoBERTa-base-ch", "BertForMaskLM")
    folders.write(tmp_path, "RoBERTa-base-ch", "BertForSequenceLabeling", folder="RoBERTa-base-ch-ner", class_num=7)
    for name in ("RoBERTa-base-ch", "RoBERTa-base-ch-ner"):
        loader = AutoLoader("ner", model_name=name, model_dir=tmp_path, device="cpu")
        assert loader.get_model().config.class_num == 7
        assert loader.get_tokenizer().encode("今天") == [791, 1921]


@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("load", ["AutoLoader", "SentenceEmbedder"])
def test_a_model_exchanged_before_its_vocabulary_is_read_has_its_own(load, turns, tmp_path, monkeypatch):
    """A third of the loads had the vocabulary of the other model, when a folder was exchanged again and again."""
    for count in (7, 8):
        folder = tmp_path / f"new-{count}"
        tiny.build("BertModel", seed=count, class_num=count).save_pretrained(folder)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{count * number}" for number in range(26))]
        (folder / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "new-7").rename(tmp_path / "model")
    changes = list(range(turns))
    read = Tokenizer.from_folder.__func__

    def exchange(*arguments, **options):
        if changes:
            changes.pop()
            for old, new in (("model", "old"), ("new-8", "model"), ("old", "new-8")):
                (tmp_path / old).rename(tmp_path / new)
        return read(Tokenizer, *arguments, **options)

    monkeypatch.setattr(Tokenizer, "from_folder", exchange)
    monkeypatch.setattr(Tokenizer, "from_pretrained", lambda name, cache_dir, **_: exchange(cache_dir / name))
    if load == "AutoLoader":
        loaded = AutoLoader("embedding", "model", tmp_path, device="cpu")
    else:
        loaded = SentenceEmbedder.from_folder(tmp_path / "model")
    assert loaded.model.config.class_num == (8 if turns % 2 else 7)
    assert loaded.tokenizer.convert_ids_to_tokens([6]) == [f"word{loaded.model.config.class_num}"]


def test_the_backbone_is_loaded_where_the_fine_tuned_model_cannot_be_fetched(home, caplog):
    AutoLoader("title-generation", model_name="GLM-large-ch", model_dir=home, device="cpu")
    assert "Loading GLM-large-ch instead, which was not trained for title-generation" in caplog.text


def test_a_folder_of_ones_own(home, tmp_path):
    folder = folders.write(tmp_path, "BERT-base-en", "BertForClsClassifier", folder="my-model", class_num=5)
    (folder / "vocab.txt").write_bytes((home / "BERT-base-en" / "vocab.txt").read_bytes())
    loader = AutoLoader("classification", model_name="my-model", model_dir=tmp_path, device="cpu")
    assert loader.get_model().config.class_num == 5
    assert AutoLoader("classification", model_name=str(folder), device="cpu").get_tokenizer().encode("hello")


def test_options_of_the_original(home):
    loader = AutoLoader(
        "ner",
        model_name="RoBERTa-base-ch",
        model_dir=str(home),
        load_pretrain_params=True,
        target_size=9,
        low_cpu_mem_usage=True,
        inference_mode=True,
        device="cpu",
        hidden_dropout_prob=0.3,
    )
    assert loader.get_model().config.class_num == 9
    assert loader.get_model().config.hidden_dropout_prob == 0.3
    assert loader.get_task_name("bert") == "bert_ner"
    half = AutoLoader("lm", model_name="GPT2-base-ch", model_dir=home, fp16=True, device="cpu").get_model()
    assert next(half.parameters()).dtype is torch.float16
    half = AutoLoader("lm", model_name="GPT2-base-ch", model_dir=home, dtype="float16", device="cpu").get_model()
    assert next(half.parameters()).dtype is torch.float16
    fresh = AutoLoader("lm", model_name="GPT2-base-ch", model_dir=home, only_download_config=True, device="cpu")
    assert not torch.equal(fresh.get_model().embed.token.weight, half.embed.token.weight.float())
    fresh.load_pretrain_params(home / "GPT2-base-ch")
    assert torch.equal(fresh.get_model().embed.token.weight.half(), half.embed.token.weight)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("tittle-generation", "GLM-large-ch"), InputError, "There is no task 'tittle-generation'. Known: lm"),
        (("lm", "GLM-larg-ch"), ModelNotFoundError, "Did you mean GLM-large-ch"),
        (("ner", "GLM-large-ch"), InputError, "needs a model of bert"),
        (("classification", "BERT-base-en"), ConfigError, "class_num"),
    ],
    ids=str,
)
def test_what_does_not_exist_is_named(arguments, error, message, home):
    with pytest.raises(error, match=message):
        AutoLoader(arguments[0], model_name=arguments[1], model_dir=home)


def test_adapters_are_refused_and_settings_checked(home):
    with pytest.raises(ModelNotFoundError, match="x has no adapter_config"):
        AutoLoader("lm", model_name="GLM-large-ch", model_dir=home, lora_dir="x")
    with pytest.raises(InputError, match="qlora_dir is not supported"):
        AutoLoader("lm", model_name="GLM-large-ch", model_dir=home, qlora_dir="x")
    with pytest.raises(InputError, match="model_dir"):
        AutoLoader("lm", model_name="GLM-large-ch", download_path=home)
    with pytest.raises(ConfigError, match="hidden_dropout"):
        AutoLoader("lm", model_name="RoBERTa-base-ch", model_dir=home, hidden_dropout_pro=0.1)


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("RoBERTa-base-ch", "BertForClsClassifier"),
        ("RoBERTa-base-ch", "BertForSequenceLabeling"),
        ("RoBERTa-base-ch", "BertForSequenceLabelingCRF"),
        ("GLM-large-ch", "GLMForSequenceClassification"),
    ],
)
def test_the_number_of_classes_is_that_of_the_trained_head(name, class_name, tmp_path):
    """The original's trainer writes the backbone's config.json, which does not say it."""
    task = {"BertForSequenceLabeling": "ner", "BertForSequenceLabelingCRF": "ner-crf"}.get(class_name, "classification")
    folder = folders.write(tmp_path, name, class_name, class_num=7)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said = {key: value for key, value in config.items() if key not in ("class_num", "num_labels", "architectures")}
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    assert AutoLoader(task, model_name=name, model_dir=tmp_path, device="cpu").get_model().config.class_num == 7


@pytest.mark.parametrize("task", ["classification", "semantic-matching"])
@pytest.mark.parametrize("trained", [True, False])
def test_the_weights_are_opened_once(task, trained, tmp_path, monkeypatch):
    """To see the head, its classes and to load it."""
    folder = folders.write(tmp_path, "GLM-large-ch", "GLMForSequenceClassification" if trained else "GLMModel")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said = {key: value for key, value in config.items() if key not in ("class_num", "num_labels", "architectures")}
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    opened = []

    def count(file, *, plain, **options):
        opened.append(file)
        return plain(file, **options)

    for name in ("open_safetensors", "open_pickle"):
        monkeypatch.setattr(reader, name, partial(count, plain=getattr(reader, name)))
    loaded = load(task, "GLM-large-ch", download_path=tmp_path, device="cpu")
    assert type(loaded.model).__name__ == ("GLMForSequenceClassification" if trained else "GLMModel")
    assert loaded.loaded_for == (task if trained else {"classification": "lm", "semantic-matching": "embedding"}[task])
    assert len(opened) == 1
    if trained and task == "classification":
        AutoLoader(task, "GLM-large-ch", tmp_path, device="cpu")
        assert len(opened) == 2


def test_a_model_without_a_head_is_loaded_for_another_task(home):
    loader = AutoLoader("classification", "GLM-large-ch", home, otherwise="lm", device="cpu")
    assert (loader.task_name, type(loader.get_model()).__name__) == ("lm", "GLMModel")

    def refuse():
        raise InputError("no labels")

    for folder in (home, home / "empty"):  # before the weights are read, and before they are fetched
        with pytest.raises(InputError, match="no labels"):
            AutoLoader("classification", "GLM-large-ch", folder, otherwise=refuse, device="cpu")


def test_a_new_head_needs_the_number_of_classes(home):
    with pytest.raises(ConfigError, match=r"'classification' needs the number of classes.*pass class_num=N"):
        AutoLoader("classification", model_name="RoBERTa-base-ch", model_dir=home)
    with pytest.raises(ConfigError, match="has no trained head that tells it"):  # in an installed package
        AutoLoader("classification", model_name="all-MiniLM-L6-v2", model_dir=home)
    matching = AutoLoader("semantic-matching", model_name="RoBERTa-base-ch", model_dir=home, device="cpu")
    assert matching.get_model().config.class_num == 2


def test_other_classes_than_those_of_the_fine_tuned_model_are_an_error_with_the_cure(tmp_path, caplog):
    folders.write(tmp_path, "RoBERTa-base-ch", "BertModel")
    folders.write(tmp_path, "RoBERTa-base-ch", "BertForClsClassifier", "RoBERTa-base-ch-classification", class_num=7)
    options = {"model_name": "RoBERTa-base-ch", "model_dir": tmp_path, "class_num": 5, "device": "cpu"}
    with pytest.raises(LoadError, match=r"fine-tuned for 'classification'.*RoBERTa-base-ch itself.*fine_tuned=False"):
        AutoLoader("classification", **options)
    caplog.clear()
    assert AutoLoader("classification", fine_tuned=False, **options).get_model().config.class_num == 5
    assert "counts" not in caplog.text  # of the file's value, which the caller replaces


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task_name": None}, "task_name is None; expected a text"),
        ({"model_name": None}, "model_name is None; expected a text or a path"),
        ({"model_name": ""}, "model_name is empty; expected a model's name or folder"),
        ({"model_dir": 5}, "model_dir is 5; expected a text or a path"),
    ],
)
def test_odd_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        AutoLoader(**arguments)


def test_a_folder_without_a_configuration_is_not_called_absent(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"mine has no config\.json"):
        AutoLoader("lm", model_name=str(tmp_path / "mine"))
