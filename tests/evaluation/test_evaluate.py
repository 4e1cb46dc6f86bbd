"""`flagai evaluate` on tiny models: right metrics, all forms of reports, and clear errors."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel
from typer.testing import CliRunner

from flagai.auto_model.auto_loader import AutoLoader
from flagai.cli import app
from flagai.errors import InputError
from flagai.evaluation.evaluate import evaluate
from flagai.evaluation.results import Confusion
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.train import metrics
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from tests.train import data

FAST = Recipe(epochs=1, batch_tokens=200, learning_rate=1e-2, max_length=40, max_target_length=16, generated=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


def trained(folder: Path, task: str, model: str = "RoBERTa-base-ch", recipe: Recipe = FAST) -> tuple[Path, Path]:
    """A model that was trained for a task, and its data."""
    if not (folder / model).is_dir():
        data.home(folder, model)
    file, out = data.write(folder, task), folder / f"{model}-{task}-mine"
    if not out.is_dir():
        finetune(task, model, file, out, model_dir=folder, recipe=recipe)
    return out, file


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_entities(folder: Path) -> None:
    model, file = trained(folder, "ner", recipe=Recipe(epochs=6, batch_tokens=64, learning_rate=2e-2))
    rows = [
        *data.ROWS["ner"],
        {"text": "北京人", "tags": ["B-LOC", "I-LOC", "B-PER"]},
        {"text": "王", "tags": ["B-PER"]},
    ]
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate("ner", model, file).metrics == {"precision": 1, "recall": 1, "f1": 1, "macro_f1": 1}
    found = evaluate("ner", model, folder / "more.jsonl")
    assert found.confusion is not None
    assert found.confusion.expected == ("LOC", "PER", "(spurious)")
    assert found.confusion.found == ("LOC", "PER", "(missed)")
    assert found.classes["PER"].support == found.confusion.counts[1][2] + found.confusion.counts[1][0] == 2
    assert found.classes["PER"].f1 == 0
    assert found.metrics["macro_f1"] == found.classes["LOC"].f1 / 2
    assert {mistake.place.rpartition(" ")[2] for mistake in found.mistakes} >= {"25", "26"}


def test_classes_are_those_of_the_predictor(folder: Path) -> None:
    model, file = trained(folder, "classification")
    found = evaluate("classification", model, file)
    assert found.confusion is not None
    right = sum(found.confusion.counts[i][i] for i in range(2))
    assert found.metrics["accuracy"] == right / 24 == 1 - len(found.mistakes) / 24
    assert sum(map(sum, found.confusion.counts)) == 24
    assert sum(scores.support for scores in found.classes.values()) == 24


def test_a_matching_model_has_classes_and_an_embedder_correlations(folder: Path) -> None:
    model, file = trained(folder, "semantic-matching")
    assert evaluate("semantic-matching", model, file).confusion is not None
    rows = [{"text1": a, "text2": b, "label": 5.0 * (a == b) + 0.5} for a in "天地人" for b in "天地人山"]
    (folder / "sts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = folder / "RoBERTa-base-ch"
    found = evaluate("semantic-matching", base, folder / "sts.jsonl", model_dir=folder)
    embedder = SentenceEmbedder.from_pretrained(base)
    ours = embedder.match([row["text1"] for row in rows], [row["text2"] for row in rows]).tolist()
    gold = [row["label"] for row in rows]
    assert found.metrics["spearman"] == pytest.approx(metrics.spearman(ours, gold))
    assert found.metrics["roc_auc"] == pytest.approx(metrics.roc_auc(ours, [value > 1 for value in gold]))
    with pytest.raises(InputError, match="'label' is 'other'; expected a number"):
        evaluate("semantic-matching", base, file, model_dir=folder)


def test_titles_have_the_rouge_of_what_is_written(folder: Path) -> None:
    model, file = trained(folder, "title-generation", "T5-base-en")
    short = folder / "titles.jsonl"
    short.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    found = evaluate("title-generation", model, short)
    assert found.metrics.keys() == {"rouge_1", "rouge_2", "rouge_l"}
    whole = [metrics.rouge(each.found, each.expected)["rouge_l"] for each in found.mistakes]
    assert found.metrics["rouge_l"] == pytest.approx((sum(whole) + 4 - len(whole)) / 4)
    assert whole == sorted(whole)


def test_perplexity_is_that_of_transformers(folder: Path) -> None:
    data.home(folder, "GPT2-base-en")
    rows = ["The sky is blue.", "A man plays a guitar in the park, and nobody listens to him."]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    found = evaluate("lm", folder / "GPT2-base-en", folder / "texts.jsonl").metrics
    loader = AutoLoader("lm", model_name="GPT2-base-en", model_dir=folder, torch_dtype=torch.float32)
    loader.get_model().save_pretrained(folder / "hf")
    theirs, total, count = GPT2LMHeadModel.from_pretrained(folder / "hf").eval(), 0.0, 0
    for ids in loader.get_tokenizer().encode_many(rows):
        with torch.no_grad():
            loss = float(theirs(torch.tensor([ids]), labels=torch.tensor([ids])).loss)
        total, count = total + loss * (len(ids) - 1), count + len(ids) - 1
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    windows = evaluate("writing", folder / "GPT2-base-en", folder / "texts.jsonl", max_length=8).metrics
    assert windows["loss"] != found["loss"]


@pytest.mark.parametrize("task", ["masklm", "poetry"])
def test_the_loss_of_other_tasks_is_that_of_training(folder: Path, task: str) -> None:
    data.home(folder, "GLM-large-ch") if not (folder / "GLM-large-ch").is_dir() else None
    file = data.write(folder, task)
    one, other = (evaluate(task, folder / "GLM-large-ch", file).metrics for _ in range(2))
    assert one == other
    assert one["perplexity"] == pytest.approx(math.exp(one["loss"]))


def test_the_command_prints_and_writes_the_report(folder: Path) -> None:
    model, _ = trained(folder, "classification")
    rows = [*data.ROWS["classification"], {"text": "<script>alert(1)</script>\x1b[31m", "label": "1"}]
    rows += [{**row, "label": 1 - int(row["label"])} for row in data.ROWS["classification"]]
    (folder / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("classification", "--model", model, "--data", folder / "odd.jsonl")
    text = run(*arguments, "--mistakes", 1)
    assert "accuracy 0." in text
    assert "data \\ model" in text
    assert "more.\n" in text
    assert "\x1b" not in text
    found = json.loads(run(*arguments, "--json", "--out", folder / "report.html"))
    page = (folder / "report.html").read_text()
    assert "<script>" not in page
    assert page.count("<tr>") == 3 + 3 + 3 + 1 + len(found["mistakes"])
    assert "src=" not in page
    assert "http" not in page
    with pytest.raises(InputError, match=r"is there already.*--overwrite"):
        run(*arguments, "--out", folder / "report.html")
    run(*arguments, "--out", folder / "report.json")
    assert json.loads((folder / "report.json").read_text()) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embedding",), "There is no evaluation of 'embedding'. Known: ner"),
        (("ner", "--out", "a.pdf"), "no known form. Known endings: .txt, .html, .json"),
        (("ner", "--column", "text"), "--column 'text' is not a pair"),
        (("lm",), "'lm' is trained with models of gpt2, not of bert"),
    ],
)
def test_what_cannot_be_evaluated(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    model, file = trained(folder, "classification")
    with pytest.raises(InputError) as error:
        run(*arguments, "--model", model, "--data", file)
    assert message in str(error.value)


def test_a_label_that_the_model_does_not_know(folder: Path) -> None:
    model, _ = trained(folder, "classification")
    rows: list[dict[str, Any]] = [{"text": "好", "label": "3"}]
    (folder / "a.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(InputError, match=r"a.jsonl, line 1: the label '3' is unknown.*0, 1"):
        evaluate("classification", model, folder / "a.jsonl")


def test_confusion_counts_pairs() -> None:
    assert Confusion.of([("a", "b"), ("a", "b"), ("b", "b")], "ab", "ab").counts == ((0, 2), (0, 1))
