"""The pieces of training: measures, batches, the learning rate, packing, the curve."""

import dataclasses
import itertools
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from scipy import stats

from flagai.data.prepare import bert, glm_pretraining
from flagai.data.prepare.labels import Span
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.train import metrics
from flagai.train.batches import batches, packed, target_count
from flagai.train.card import write_card
from flagai.train.curve import write_curve
from flagai.train.engine import build_optimizer
from flagai.train.recipe import Recipe
from tests import folders

_FREE = ("packing", "precision", "scheme", "workers")


def test_entity_scores_count_exact_spans() -> None:
    scores = metrics.entity_scores(
        [[(0, 1, "LOC"), (3, 4, "PER")], []], [[(0, 1, "LOC"), (3, 5, "PER")], [(0, 0, "X")]]
    )
    assert scores == {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5}


@pytest.mark.parametrize(
    ("written", "reference", "score"),
    [
        ("北京下雨", "北京下雨", 1.0),
        ("北京大雨", "北京下雨", 0.75),
        ("", "a", 0.0),
        ("雨 下", "下雨", 0.5),
        ("abcd", "acbd", 0.75),
    ],
)
def test_rouge_l(written: str, reference: str, score: float) -> None:
    assert metrics.rouge_l(written, reference) == score


def test_spearman_agrees_with_scipy() -> None:
    chance = random.Random(3)
    first, second = ([chance.randrange(9) for _ in range(60)] for _ in range(2))
    assert metrics.spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert metrics.spearman([1, 1], [1, 2]) == 0.0


def test_batches_keep_to_their_budget_and_have_every_text_once() -> None:
    chance = random.Random(1)
    lengths = [chance.randint(3, 90) for _ in range(300)] + [500]
    found = batches(lengths, 256, seed=4)
    assert sorted(index for batch in found for index in batch) == list(range(301))
    assert all(len(batch) * max(lengths[index] for index in batch) <= 256 for batch in found if len(batch) > 1)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in found)
    assert padded < 1.15 * sum(lengths)
    assert found == batches(lengths, 256, seed=4) != batches(lengths, 256, seed=5)


def test_batches_without_padding_are_full() -> None:
    chance = random.Random(3)
    lengths = [chance.randrange(3, 60) for _ in range(1000)] + [300]
    found = batches(lengths, 256, seed=4, padded=False)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    sizes = sorted(sum(lengths[index] for index in batch) for batch in found)
    assert sizes[-1] == 300
    assert sizes[-2] <= 256
    # Each but the last has no room for one text more.
    assert sizes[1] > 256 - 60


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_and_falls(schedule: str) -> None:
    recipe = Recipe(learning_rate=1.0, warmup=0.1, schedule=schedule)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.02 or schedule == "constant"


def test_a_recipe_that_cannot_be() -> None:
    values = ["x", "", None, [], {}, -1, 10**30, float("nan"), float("inf"), b"1", object()]
    names = [field.name for field in dataclasses.fields(Recipe)]
    wrong = [{"schedule": "wave"}, {"epochs": 0}, {"held_out": 1.0}, {"clip": 0}, {"seed": 2**40}]
    wrong += [{name: value} for name in names for value in values if not (name in _FREE and value is None)]
    for settings in wrong:
        with pytest.raises(InputError, match=next(iter(settings))):
            Recipe(**settings)
    assert Recipe(epochs="2", learning_rate=1).epochs == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["BertForSequenceLabeling", "BertForSequenceLabelingCRF", "BertForSequenceLabelingGP", "BertForMaskLM"]
)
def test_packing_changes_no_loss(name: str, bert_tokenizer: Tokenizer) -> None:
    texts = ["北京很大", "我在上海看书，天气很好", "杭州"]
    spans = [[Span(0, 1, "LOC")], [Span(2, 3, "LOC")], [Span(0, 1, "LOC")]]
    if name.endswith("GP"):
        batch = bert.span_labelling(bert_tokenizer, texts, spans, ["LOC"])
    elif name.endswith("MaskLM"):
        batch = bert.masked(bert_tokenizer, texts, random.Random(1))
    else:
        batch = bert.labelling(bert_tokenizer, texts, spans, ["O", "B-LOC", "I-LOC"])
    model = folders.model("RoBERTa-base-ch", name, class_num=1 if name.endswith("GP") else 3).eval()
    torch.testing.assert_close(model(**packed(batch))["loss"], model(**batch)["loss"])
    assert target_count(packed(batch)) == target_count(batch) > 0


def test_masked_words_follow_the_paper(bert_tokenizer: Tokenizer) -> None:
    texts = ["白日依山尽，黄河入海流。欲穷千里目，更上一层楼。" * 4] * 50
    batch = bert.masked(bert_tokenizer, texts, random.Random(1))
    plain = bert.collate(bert.rows(bert_tokenizer, texts))
    asked = batch["labels"] != -100
    assert (batch["labels"][asked] == plain["input_ids"][asked]).all()
    assert (batch["input_ids"][~asked] == plain["input_ids"][~asked]).all()
    assert float(asked.float().mean()) == pytest.approx(0.15, abs=0.01)
    hidden = batch["input_ids"][asked] == bert_tokenizer.get_command_id("mask")
    assert float(hidden.float().mean()) == pytest.approx(0.8, abs=0.05)
    assert not asked[:, 0].any()


def test_glm_pretraining_hides_what_it_asks_for(glm_tokenizer: Tokenizer) -> None:
    texts = ["白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"] * 20
    batch = glm_pretraining.pretraining(glm_tokenizer, texts, random.Random(1))
    end = glm_tokenizer.get_command_id("eop")
    for row in range(20):
        context = set(batch["input_ids"][row, : batch["attention_mask"][row]].tolist())
        labels = [label for label in batch["labels"][row].tolist() if label != -100]
        assert labels[-1] == end
        assert context & {glm_tokenizer.get_command_id("mask"), glm_tokenizer.get_command_id("gMASK")}
    again = glm_pretraining.pretraining(glm_tokenizer, texts, random.Random(1))
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    write_curve(tmp_path / "c.svg", {"loss": [(1, 3.0), (2, 1.5), (3, 1.0)], "valid": []}, "a <b> & c")
    root = ElementTree.parse(tmp_path / "c.svg").getroot()
    lines = [e.attrib["points"].split() for e in root.iter("{http://www.w3.org/2000/svg}polyline")]
    heights = [float(point.split(",")[1]) for point in next(line for line in lines if len(line) == 3)]
    assert heights == sorted(heights)  # the loss falls: y grows downwards
    assert any(e.text == "a <b> & c" for e in root.iter("{http://www.w3.org/2000/svg}text"))


def test_new_heads_learn_at_a_rate_of_their_own() -> None:
    model = folders.model("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=3)
    groups = build_optimizer(model, Recipe(head_rate=20.0)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    new = {names[id(parameter)] for group in groups for parameter in group["params"] if group["factor"] == 20}
    assert new == {"tagger.weight", "tagger.bias"}
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert {group["weight_decay"] > 0 for group in groups if group["params"][0].dim() > 1} == {True}


def test_a_card_tells_where_the_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = {Path("mine"): ".", Path("runs/poems/mine"): "runs/poems", tmp_path / "mine": tmp_path.name}
    for folder, home in places.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_card(folder, {"task": "ner", "base": "base"}, {}, {})
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert f"flagai ner --model mine --model-dir {home}\n" in text
        assert f'model_dir="{home}")' in text
