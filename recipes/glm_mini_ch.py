r"""Trains GLM-mini-ch, the small Chinese GLM that ships with the package: poems, titles, blanks.

    python recipes/glm_mini_ch.py --data DIR --out FIRST --minutes 9.5
    python recipes/glm_mini_ch.py --data DIR --out SECOND --minutes 9 --stage 2 --start FIRST --rate 1e-3 --compile
    python recipes/glm_mini_ch.py --data DIR --out THIRD --minutes 5.5 --stage 3 --start SECOND --rate 5e-4 --compile \\
        --batch-tokens 98304

The first stage learns from scratch, the second goes on from its result with far more titles and with tasks that teach
to copy, the third goes on from that. The data folder holds ``poetry``, ``zh_title_csl`` and ``zh_title_law``
(train, valid and test as .jsonl.gz) and ``poetry/pingze.json``. One GPU is enough; without one, ``--smoke`` runs
everything on a small slice. The result is the model's folder with ``metrics.json`` and ``log.jsonl``; the model in it
is that of the last validation. The time limit counts from the start and includes the evaluation at the end.
"""

import argparse
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from glm_mini_data import Batches, Passes, fixed_batches, read
from glm_mini_eval import evaluate
from glm_mini_tasks import STAGES, Rows, examples
from glm_mini_training import Training
from glm_mini_vocabulary import vocabulary
from torch.utils.data import DataLoader

from flagai.data.tokenizer import Tokenizer
from flagai.model.glm_model import GLMConfig, GLMForSeq2Seq

SIZES = {"mini": (9, 384, 6), "smoke": (2, 64, 2)}
_POSITIONS = 384
# Seconds kept for reading, saving and leaving.
_SPARE = 12


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.5, help="everything included")
    parser.add_argument("--passes", type=float, default=12, help="stop when every poem was written so often")
    parser.add_argument("--batch-tokens", type=int, default=49152)
    parser.add_argument("--rate", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--stage", type=int, choices=STAGES, default=1, help="which tasks, how often")
    parser.add_argument("--start", type=Path, help="the model to go on from, for the stages 2 and 3")
    parser.add_argument("--compile", action="store_true", help="compile the blocks by torch.compile")
    parser.add_argument("--evaluation-seconds", type=float, default=75, help="kept for the end; 0: do not evaluate")
    parser.add_argument("--evaluate", action="store_true", help="only measure the model in --out, without a time limit")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on a small slice")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.batch_tokens, arguments.workers = min(arguments.batch_tokens, 2048), min(arguments.workers, 1)
        arguments.minutes = min(arguments.minutes, 1)
        arguments.evaluation_seconds = min(arguments.evaluation_seconds, 20)
    return arguments


def read_data(folder: Path, smoke: bool) -> dict[str, list[dict[str, str]]]:
    """The parts of the data by name: poems and articles for training, validation and test."""
    limit = 60 if smoke else None
    found = {f"poems_{split}": read(folder, "poetry", split, limit) for split in ("train", "valid", "test")}
    valid = read(folder, "zh_title_csl", "valid", limit)
    # The abstracts are few: four fifths of the validation part are trained on too.
    found["articles_train"] = [
        *read(folder, "zh_title_csl", "train", limit),
        *valid[len(valid) // 5 :],
        *read(folder, "zh_title_law", "train", limit),
    ]
    found["articles_valid"] = valid[: len(valid) // 5]
    found["articles_test"] = read(folder, "zh_title_csl", "test", limit)
    found["laws_test"] = read(folder, "zh_title_law", "test", limit)
    return found


def prepare(out: Path, data: dict[str, list[dict[str, str]]], arguments: argparse.Namespace) -> GLMForSeq2Seq:
    """Write the vocabulary and the configuration, which together are the tokenizer's folder, and make the model."""
    out.mkdir(parents=True, exist_ok=True)
    if arguments.start:
        for name in ("vocab.txt", "config.json"):
            shutil.copyfile(arguments.start / name, out / name)
        return GLMForSeq2Seq.from_pretrained(arguments.start, device="cpu", dtype=torch.float32)
    texts = [f"{entry['title']}{entry.get('form', '')}：{entry['text']}" for entry in data["poems_train"]]
    texts += [f"{entry['title']}{entry['text']}" for entry in data["articles_train"]]
    tokens = vocabulary(texts)
    (out / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    layers, width, heads = SIZES["smoke" if arguments.smoke else "mini"]
    config = GLMConfig(
        num_layers=layers,
        vocab_size=-(-(len(tokens) + 4) // 128) * 128,
        hidden_size=width,
        num_attention_heads=heads,
        max_sequence_length=_POSITIONS,
        embedding_dropout_prob=arguments.dropout,
        attention_dropout_prob=0.0,
        output_dropout_prob=arguments.dropout,
        extra={"model_type": "glm"},
    )
    config.to_json(out / "config.json", architectures=["GLMForSeq2Seq"])
    model = GLMForSeq2Seq(config)
    model.init_weights()
    return model


def train(arguments: argparse.Namespace, data: dict[str, list[dict[str, str]]], started: float) -> None:
    """Make the model."""
    torch.manual_seed(arguments.seed)
    if arguments.smoke:
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    model = prepare(arguments.out, data, arguments)
    tokenizer = Tokenizer.from_folder(arguments.out)
    tasks = examples(tokenizer, data["poems_train"], data["articles_train"])
    held_out = examples(tokenizer, data["poems_valid"], data["articles_valid"])
    rows = Rows(tokenizer, [example.target for example in tasks["title"]])
    loader = DataLoader(
        Batches(rows, tasks),
        batch_size=None,
        sampler=Passes(tasks, STAGES[arguments.stage], arguments.batch_tokens, arguments.seed),
        num_workers=arguments.workers,
        prefetch_factor=8 if arguments.workers else None,
        multiprocessing_context="fork" if arguments.workers else None,
        collate_fn=_as_it_is,
    )
    validation = [
        (task, batch)
        for task in held_out
        for batch in fixed_batches(rows, task, held_out[task], arguments.batch_tokens)
    ]
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    count = sum(parameter.numel() for parameter in model.parameters())
    sizes = {task: len(entries) for task, entries in tasks.items()}
    print(
        f"{count:,} parameters, {tokenizer.vocab_size} tokens, examples {sizes}, prepared in "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    deadline = started + arguments.minutes * 60 - arguments.evaluation_seconds - _SPARE
    Training(model, arguments.out, arguments, deadline).train(loader, validation)


def _as_it_is(batch: Any) -> Any:
    """Workers have made the batch."""
    return batch


def main() -> None:
    """Train and measure."""
    started = time.monotonic()
    arguments = parse_arguments()
    data = read_data(arguments.data, arguments.smoke)
    if not arguments.evaluate:
        train(arguments, data, started)
        if not arguments.evaluation_seconds:
            return
    deadline = math.inf if arguments.evaluate else started + arguments.minutes * 60 - _SPARE / 2
    tones_file = arguments.data / "poetry" / "pingze.json"
    tones = json.loads(tones_file.read_text(encoding="utf-8")) if tones_file.is_file() else {}
    for metrics in evaluate(arguments.out, data, tones, deadline, smoke=arguments.smoke):
        # Written after every part: a limit of time cuts the last parts off, not all of them.
        text = json.dumps(metrics, ensure_ascii=False, indent=1)
        (arguments.out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"done after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
