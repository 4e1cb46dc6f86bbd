"""The recipe of GLM-mini-ch: its inputs mean what the model's own preparation says, its tasks can be solved."""

import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.data.prepare import glm
from flagai.data.tokenizer import Tokenizer
from flagai.model.glm_model import GLMForSeq2Seq
from tests import folders

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "recipes"))
data: Any = pytest.importorskip("glm_mini_data")
tasks: Any = pytest.importorskip("glm_mini_tasks")

POEMS = [{"title": "山中", "form": "五言绝句", "text": "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"}] * 6
ARTICLES = [
    {
        "text": "为了提高图像分割的精度,提出基于聚类的图像分割算法。该图像分割算法先聚类,再合并区域。实验有效。",
        "title": "基于聚类的图像分割算法",
    }
] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(ROOT / "src/flagai/models/GLM-mini-ch")


@pytest.fixture(scope="module")
def made(tokenizer: Tokenizer) -> tuple[Any, Any]:
    examples = tasks.examples(tokenizer, POEMS, ARTICLES)
    return tasks.Rows(tokenizer, [tokenizer.encode(title) for title in ("一种的基于", "算法")]), examples


@pytest.mark.parametrize("task", ["poem", "title", "text_recital", "text_echo", "text_blank"])
def test_logits_of_the_asked_positions_give_the_loss_of_all(tokenizer: Tokenizer, made: Any, task: str) -> None:
    rows, examples = made
    chosen = [rows.row(task, example, random.Random(seed)) for seed, example in enumerate(examples[task])]
    model = folders.model("GLM-large-ch", "GLMForSeq2Seq", vocab_size=6272, max_sequence_length=384).eval()
    assert isinstance(model, GLMForSeq2Seq)
    pad = tokenizer.get_command_id("pad")
    batch = {name: torch.from_numpy(array).long() for name, array in data.arrays(chosen, pad).items()}
    assert batch["logits_at"].shape[1] < batch["input_ids"].shape[1] or task == "text_blank"
    torch.testing.assert_close(model(**batch)["loss"], model(**glm.collate(chosen, pad))["loss"])


def test_characters_are_exchanged_alike_in_the_text_and_its_title(tokenizer: Tokenizer, made: Any) -> None:
    rows, examples = made
    (title, *_) = examples["title"]
    exchanged = 0
    for seed in range(20):
        source, target = rows.exchange(title.source, title.target, rows.content, random.Random(seed))
        new = dict(zip(title.source, source, strict=True))
        assert target == tuple(new.get(token, token) for token in title.target)
        common = set(tokenizer.encode("一种的基于算法"))
        assert all(new[token] == token for token in title.source if token in common)
        exchanged += source != title.source
    assert exchanged > 10


def test_an_echo_goes_on_as_the_text_does(tokenizer: Tokenizer, made: Any) -> None:
    rows, examples = made
    for seed in range(20):
        source, target = rows.pair("text_echo", examples["text_echo"][0], random.Random(seed))
        cue = tuple(tokenizer.encode("续："))
        place = next(at for at in range(len(source)) if source[at : at + len(cue)] == cue)
        text, begun = source[:place], source[place + len(cue) :]
        assert any(text[at : at + len(begun) + len(target)] == begun + target for at in range(len(text)))


def test_keywords_are_what_is_repeated(tokenizer: Tokenizer, made: Any) -> None:
    _, examples = made
    asked = tuple(tokenizer.encode("关键词："))
    (found, *_) = [example for example in examples["text_recital"] if example.source[: len(asked)] == asked]
    assert "图像分割" in tokenizer.decode(list(found.target)).replace(" ", "")


def test_every_pass_has_each_poem_and_batches_of_one_kind(made: Any) -> None:
    _, examples = made
    picks = [pick for batch in data.Passes(examples, tasks.STAGES[1], 400, 1).batches_of(0) for pick in batch]
    assert sorted(index for task, index, _ in picks if task == "poem") == list(range(len(POEMS)))
    for batch in data.Passes(examples, tasks.STAGES[2], 400, 1).batches_of(0):
        assert len({task.endswith("blank") for task, _, _ in batch}) == 1
