"""Fine-tuning at BERT's base size on one GPU: flagai.train beside transformers' Trainer.

    python benchmarks/train.py [--out FILE] [--layers 12] [--width 768]

Both train the same shape from random weights in bf16 on the same texts: a tagger on sentences of newspapers' length,
a classifier on reviews' length. Texts are of random characters; only their lengths matter. Speed is real tokens a
second from the tenth step of the second epoch on; MFU counts the products of real tokens and nothing else, against
the card's dense bf16 peak and against the best product that was measured here. Without a GPU, a tiny shape shows that
everything runs.
"""

import argparse
import contextlib
import gc
import itertools
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo.utils
from _measure import machine, versions
from _train_texts import EPOCHS, LENGTHS, SKIPPED, TAGS, VOCABULARY, Shape, texts

from flagai.data.tokenizer import Tokenizer
from flagai.model.bert_model import BertConfig, BertForClsClassifier, BertForSequenceLabeling
from flagai.model.block.compile import compile_blocks
from flagai.train.recipe import Recipe
from flagai.train.records import Record
from flagai.train.run import TrainingRun
from flagai.train.tasks import objective_for
from flagai.train.trainer import Trainer

# Dense bf16 of an H100 SXM, by its data sheet.
PEAK = 989e12
_SIDES = _COMPILED, _PEER, _GROUPED, _PLAIN = (
    "flagai, compiled", "transformers", "transformers, grouped by length", "flagai"
)  # fmt: skip


class EnoughError(Exception):
    """Ends a training when the last step is done."""


# -- ours ------------------------------------------------------------------------------------------------------


def ours(task: str, rows: list[dict[str, Any]], shape: Shape, device: str, *, compiled: bool) -> dict[str, float]:
    """Seconds and tokens of the steps that count."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # transformers' Trainer has set its own
    tokenizer = Tokenizer.from_folder(VOCABULARY)
    records = [Record(row, f"row {number}") for number, row in enumerate(rows)]
    recipe = Recipe(
        epochs=EPOCHS,
        batch_tokens=shape.tokens,
        max_length=384,
        evaluate_every=2**20,
        save_minutes=0,
        packing=True,
        compile=compiled,
    )
    objective = objective_for(task, "bert", records, recipe)
    cls = BertForSequenceLabeling if task == "ner" else BertForClsClassifier
    model = cls(BertConfig.from_dict(shape.settings(len(objective.names()))))
    model.init_weights()
    model.to(device)
    if compiled:
        compile_blocks(model)
    marks: list[tuple[int, float, int]] = []

    def watch(entry: dict[str, Any]) -> None:
        marks.append((entry["step"], time.perf_counter(), trainer.progress.tokens))
        if entry["step"] == entry["steps"] - 1:  # the last one is reported with the evaluation
            raise EnoughError

    accelerator = Accelerator(mixed_precision="bf16")
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(model, tokenizer, objective, records, records[:8], recipe, packing=True)
        trainer = Trainer(run, accelerator, Path(folder) / "out", {}, watch)
        trainer.resume()
        with contextlib.suppress(EnoughError):
            trainer.fit()
    first = trainer.steps // EPOCHS + SKIPPED
    begin = next(mark for mark in marks if mark[0] >= min(first, trainer.steps - 2))
    return _result(marks[-1][1] - begin[1], marks[-1][2] - begin[2], marks[-1][0] - begin[0])


# -- transformers ----------------------------------------------------------------------------------------------


def theirs(task: str, rows: list[dict[str, Any]], shape: Shape, device: str, *, grouped: bool) -> dict[str, float]:
    """Seconds and tokens of transformers' Trainer, with as many real tokens a step."""
    import transformers

    lengths = [len(row["text"]) + 2 for row in rows]
    batch = max(1, round(shape.tokens * len(rows) / sum(lengths)))
    marks: list[tuple[int, float]] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if device == "cuda" and state.global_step in (first, state.max_steps):
                torch.cuda.synchronize()
            marks.append((state.global_step, time.perf_counter()))

    tokenizer = transformers.BertTokenizerFast(str(VOCABULARY / "vocab.txt"))
    data, collator, model = _their_parts(task, rows, shape, tokenizer)
    steps = len(rows) // batch
    first = steps + SKIPPED
    sampling: dict[str, Any] = {}
    if grouped:
        fields = transformers.TrainingArguments.__dataclass_fields__
        named = "train_sampling_strategy" in fields
        sampling = {"train_sampling_strategy": "group_by_length"} if named else {"group_by_length": True}
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            num_train_epochs=EPOCHS,
            bf16=device == "cuda",
            use_cpu=device == "cpu",
            learning_rate=5e-5,
            optim="adamw_torch_fused" if device == "cuda" else "adamw_torch",
            dataloader_num_workers=8 if device == "cuda" else 0,
            dataloader_persistent_workers=device == "cuda",
            dataloader_drop_last=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **sampling,
        )
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[Clock()]
        )
        trainer.train()
    begin = next(mark for mark in marks if mark[0] >= min(first, marks[-1][0] - 1))
    count = marks[-1][0] - begin[0]
    return _result(marks[-1][1] - begin[1], round(count * batch * sum(lengths) / len(rows)), count)


def _their_parts(task: str, rows: list[dict[str, Any]], shape: Shape, tokenizer: Any) -> tuple[Any, Any, Any]:
    import transformers

    encoded = tokenizer([row["text"] for row in rows])["input_ids"]
    classes = len(TAGS) if task == "ner" else 10
    config = transformers.BertConfig(**shape.settings(classes), num_labels=classes)
    if task == "ner":
        labels = [[-100, *(TAGS.index(tag) for tag in row["tags"]), -100] for row in rows]
        data = [
            {"input_ids": ids, "labels": [*tags[: len(ids) - 1], -100][: len(ids)]}
            for ids, tags in zip(encoded, labels, strict=True)
        ]
        return (
            data,
            transformers.DataCollatorForTokenClassification(tokenizer),
            transformers.BertForTokenClassification(config),
        )
    data = [{"input_ids": ids, "label": row["label"]} for ids, row in zip(encoded, rows, strict=True)]
    return (
        data,
        transformers.DataCollatorWithPadding(tokenizer),
        transformers.BertForSequenceClassification(config),
    )


# -- the table -------------------------------------------------------------------------------------------------


def _result(seconds: float, tokens: int, steps: int) -> dict[str, float]:
    return {"seconds": seconds, "tokens": tokens, "steps": steps, "tokens_per_second": tokens / seconds}


def best_product() -> float:
    """Operations a second of the best of some large bf16 products."""
    best = 0.0
    for size in (4096, 8192):
        one, other = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        for _ in range(3):
            one @ other
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(10):
            one @ other
        end.record()
        torch.cuda.synchronize()
        best = max(best, 10 * 2 * size**3 / (start.elapsed_time(end) / 1000))
    return best


def measure(task: str, shape: Shape, device: str, peak: float | None, chosen: list[str]) -> Iterator[dict[str, Any]]:
    """The chosen sides of a task, one result more each time; padded, the largest steps do not fit a card."""
    rows = texts(task, shape)
    lengths = [len(row["text"]) + 2 for row in rows]
    per_token = shape.work(lengths) / sum(lengths)
    sides: dict[str, Callable[[], dict[str, float]]] = {
        _COMPILED: lambda: ours(task, rows, shape, device, compiled=device == "cuda"),
        _PEER: lambda: theirs(task, rows, shape, device, grouped=False),
        _GROUPED: lambda: theirs(task, rows, shape, device, grouped=True),
        _PLAIN: lambda: ours(task, rows, shape, device, compiled=False),
    }
    found: dict[str, Any] = {"texts": len(rows), "mean_length": sum(lengths) / len(lengths)}
    for name in chosen:
        began = time.perf_counter()
        try:
            entry: dict[str, Any] = sides[name]()
            rate = entry["tokens_per_second"] * per_token
            entry["teraflops"] = rate / 1e12
            if peak is not None:
                entry |= {"mfu": rate / PEAK, "mfu_of_measured_peak": rate / peak}
        except Exception as error:  # noqa: BLE001 - the other sides are still wanted
            entry = {"error": repr(error)[:500], "trace": traceback.format_exc()[-1200:]}
        entry["seconds_in_all"] = time.perf_counter() - began
        if device == "cuda":
            entry["gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if name == _COMPILED:
            entry["graphs"] = dict(torch._dynamo.utils.counters["stats"])
            entry["graph_breaks"] = [key[:80] for key in torch._dynamo.utils.counters["graph_break"]]
        found[name] = {key: round(value, 4) if isinstance(value, float) else value for key, value in entry.items()}
        print(task, shape.tokens, name, json.dumps(found[name])[:700], flush=True)
        yield found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--tokens", type=int, nargs="*", default=[32768, 65536], help="real tokens of a step")
    parser.add_argument("--steps", type=int, default=25, help="of an epoch")
    parser.add_argument("--task", choices=LENGTHS, nargs="*", default=list(LENGTHS))
    parser.add_argument("--sides", choices=_SIDES, nargs="*", default=list(_SIDES))
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    base = (12, 768) if cuda else (2, 128)
    size = (options.layers or base[0], options.width or base[1], options.steps if cuda else SKIPPED + 4)
    shapes = [Shape(*size, tokens) for tokens in (options.tokens if cuda else [512])]
    results: dict[str, Any] = {"machine": machine(), "versions": versions(), "size": size}
    peak = None
    if cuda:
        results["gpu"], peak = torch.cuda.get_device_name(), best_product()
        results["measured_product_teraflops"] = round(peak / 1e12, 1)
    for task, shape in itertools.product(options.task, shapes):
        for found in measure(task, shape, "cuda" if cuda else "cpu", peak, options.sides):
            results[f"{task}, {shape.tokens} tokens a step"] = found
            if options.out:
                options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
