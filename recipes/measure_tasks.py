"""Fine-tunes one small Chinese BERT for tagging, matching and titles, and measures it on the usual test sets.

    python recipes/measure_tasks.py --data DIR --out results.json [--work FOLDER] [--only lcqmc ...]

The data folder holds ``zh_ner`` (MSRA and People's Daily), ``zh_ner_resume``, ``zh_ner_weibo``, ``zh_ner_cluener``,
``zh_match`` (LCQMC, ATEC, OPPO, BQ), ``stsb_zh`` and ``zh_title_csl``, each with train, valid and test as .jsonl.gz;
CLUENER has no test part with tags, so its valid part is tested, and a fourteenth of train is its valid part. Most of
these corpora are for research only: the models are measured, not shipped. Every row of the table is a ``flagai
finetune`` command; what fails is noted, and the next one runs. One GPU needs about five minutes; ``--smoke`` runs
everything on a small slice on a CPU.
"""

import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flagai.auto_model.auto_loader import AutoLoader
from flagai.model.predictor.predictor import Predictor
from flagai.train.finetune import finetune
from flagai.train.metrics import rouge_l, spearman
from flagai.train.recipe import Recipe
from flagai.train.records import read_records
from flagai.train.tasks import objective_for

MODEL = Path(__file__).parent.parent / (
    "packages/flagai-model-me5-small-bert-zh/src/flagai_model_me5_small_bert_zh/model"
)
Row = dict[str, Any]
Test = Callable[[Predictor, Sequence[Row], "Item", Path], dict[str, float]]


def by_objective(run: Predictor, _: Sequence[Row], item: "Item", folder: Path) -> dict[str, float]:
    """The measures that the task's training reports too: accuracy, or precision, recall and F1 of entities."""
    train, held_out = read_records(folder / "train.jsonl"), read_records(folder / "test.jsonl")
    return objective_for(item.task, "bert", train, item.recipe).metrics(run, held_out)


def by_expected_score(run: Predictor, test: Sequence[Row], item: "Item", _: Path) -> dict[str, float]:
    """The rank correlation of the expected class with what people said."""
    pairs = [[row["text1"], row["text2"]] for row in test]
    chances = run.class_probabilities(pairs, item.recipe.max_length).float().cpu()
    expected = (chances * torch.arange(chances.shape[1])).sum(1)
    return {"spearman": spearman(expected.tolist(), [row["score"] for row in test])}


def by_titles(run: Predictor, test: Sequence[Row], item: "Item", _: Path) -> dict[str, float]:
    """ROUGE-L on characters of titles by beam search, beside the beginning of the text."""
    mean = sum(len(row["title"]) for row in test) // len(test)
    found: list[float] = []
    for start in range(0, len(test), 50):
        part = test[start : start + 50]
        written = run.write(
            [row["text"] for row in part],
            input_max_length=item.recipe.max_length,
            out_max_length=item.recipe.max_target_length,
            num_beams=4,
        )
        found += [rouge_l(text.lower(), row["title"].lower()) for text, row in zip(written, part, strict=True)]
    lead = [rouge_l(row["text"][:mean].lower(), row["title"].lower()) for row in test]
    return {"rouge_l": sum(found) / len(found), f"rouge_l_of_the_first_{mean}_characters": sum(lead) / len(lead)}


@dataclass(frozen=True)
class Item:
    """A row of the table.

    Args:
        task: of ``flagai finetune``.
        data: the folder of the data.
        recipe: how to train.
        test: how the test part is measured.
        tested: the value of ``src`` of the rows that are tested; None: all.
    """

    task: str
    data: str
    recipe: Recipe
    test: Test
    tested: str | None = None


ITEMS = {
    "msra": Item(
        "ner",
        "zh_ner",
        # The encoder's states are small: a new head must learn faster than the rest.
        Recipe(epochs=8, learning_rate=1e-4, head_rate=20, batch_tokens=4096, max_length=160),
        by_objective,
        "msra",
    ),
    "resume": Item(
        "ner",
        "zh_ner_resume",
        Recipe(epochs=8, learning_rate=1e-4, head_rate=20, batch_tokens=4096, max_length=160),
        by_objective,
    ),
    "weibo": Item(
        "ner",
        "zh_ner_weibo",
        Recipe(epochs=16, learning_rate=1e-4, head_rate=20, batch_tokens=2048, max_length=160),
        by_objective,
    ),
    "cluener": Item(
        "ner",
        "zh_ner_cluener",
        Recipe(epochs=8, learning_rate=1e-4, head_rate=20, batch_tokens=4096, max_length=160),
        by_objective,
    ),
    "lcqmc": Item(
        "semantic-matching",
        "zh_match",
        Recipe(epochs=3, learning_rate=1e-4, head_rate=10, batch_tokens=8192, max_length=128),
        by_objective,
        "lcqmc",
    ),
    "stsb": Item(
        "semantic-matching",
        "stsb_zh",
        Recipe(epochs=5, learning_rate=2e-4, batch_tokens=4096, max_length=128),
        by_expected_score,
    ),
    "csl": Item(
        "title-generation",
        "zh_title_csl",
        Recipe(epochs=16, learning_rate=4e-4, batch_tokens=8192, max_length=320, max_target_length=64, generated=0),
        by_titles,
    ),
}
_SMOKE, _FOURTEENTH = 48, 14


def parts(name: str, item: Item, data: Path, folder: Path, smoke: bool) -> list[Row]:
    """Write the training and validation data of an item, and return its test data."""
    found: dict[str, list[Row]] = {}
    for split in ("train", "valid", "test"):
        path = data / item.data / f"{split}.jsonl.gz"
        with gzip.open(path, "rt", encoding="utf-8") if path.is_file() else nullcontext(()) as file:
            found[split] = [json.loads(line) for line in file]
    if name == "cluener":  # ten kinds of entities; the corpus' own test part has no tags
        found["test"], found["valid"] = found["valid"], found["train"][::_FOURTEENTH]
        del found["train"][::_FOURTEENTH]
        for row in [*found["train"], *found["valid"], *found["test"]]:
            row["tags"] = row["fine"]
    if item.tested:
        found["test"] = [row for row in found["test"] if row["src"] == item.tested]
    if name == "csl":  # the abstracts are few: four fifths of the validation part are trained on too
        fifth = len(found["valid"]) // 5
        found["train"] += found["valid"][fifth:]
        found["valid"] = found["valid"][:fifth]
    for split, rows in found.items():
        if smoke:
            del rows[_SMOKE:]
        if name == "stsb":  # scores from 0 to 5 become the nearest of six classes
            for row in rows:
                row["label"] = round(row["score"])
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return found["test"]


def measured(name: str, item: Item, data: Path, work: Path, smoke: bool) -> dict[str, Any]:
    """Train and test one item."""
    started = time.perf_counter()
    folder = work / f"{name}-data"
    folder.mkdir(parents=True, exist_ok=True)
    test = parts(name, item, data, folder, smoke)
    recipe = replace(item.recipe, epochs=1, max_length=64, max_target_length=12) if smoke else item.recipe
    item = replace(item, recipe=recipe)
    valid = finetune(
        item.task,
        str(MODEL),
        folder / "train.jsonl",
        work / name,
        valid=folder / "valid.jsonl",
        recipe=recipe,
        overwrite=True,
    )
    trained = time.perf_counter()
    loader = AutoLoader(item.task, model_name=name, model_dir=str(work), device=_device())
    found = item.test(Predictor(loader.get_model(), loader.get_tokenizer()), test, item, folder)
    log = [json.loads(line) for line in (work / name / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "task": item.task,
        "test_rows": len(test),
        "test": found,
        "valid": valid,
        "seconds_training": trained - started,
        "seconds_testing": time.perf_counter() - trained,
        "tokens_per_second": _median([entry["tokens_per_second"] for entry in log if "tokens_per_second" in entry]),
        "evaluations": [entry for entry in log if "valid_loss" in entry],
        "recipe": asdict(recipe),
    }


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return round(value, 5) if isinstance(value, float) else value


def main() -> int:
    """Measure all, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=None, help="where the models go; default a temporary folder")
    parser.add_argument("--only", nargs="*", choices=ITEMS, default=list(ITEMS))
    parser.add_argument("--minutes", type=float, default=10, help="begin no item after this time")
    parser.add_argument("--smoke", action="store_true", help="a small slice")
    arguments = parser.parse_args()
    if torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_MIXED_PRECISION", "bf16")
    started = time.monotonic()
    results: dict[str, Any] = {"torch": torch.__version__, "device": _device()}
    if torch.cuda.is_available():
        results["device"] = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only:
            if time.monotonic() - started > arguments.minutes * 60:
                results[name] = {"error": "no time left"}
                continue
            work = arguments.work or Path(temporary)
            for packing in (None, False):  # where a card's kernels for packed texts fail, padded ones are measured
                item = replace(ITEMS[name], recipe=replace(ITEMS[name].recipe, packing=packing))
                try:
                    results[name] = _rounded(measured(name, item, arguments.data, work, arguments.smoke))
                    break
                except Exception as error:  # noqa: BLE001 - the other items are still wanted
                    results[name] = {"error": repr(error), "trace": traceback.format_exc()[-1500:]}
                    print(name, results[name]["trace"], flush=True)
                    shutil.rmtree(work / f"{name}.training", ignore_errors=True)
            print(name, json.dumps(results[name], ensure_ascii=False)[:1500], flush=True)
            arguments.out.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return int(any("error" in entry for entry in results.values() if isinstance(entry, dict)))


if __name__ == "__main__":
    sys.exit(main())
