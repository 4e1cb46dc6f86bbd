r"""Trains GLM-mini-ch, the small Chinese GLM that ships with the package: poems, titles, blanks.

    python recipes/glm_mini_ch.py prepare --data DIR --corpus CORPUS
    python recipes/glm_mini_ch.py train --corpus CORPUS --out FIRST --minutes 9
    python recipes/glm_mini_ch.py train --corpus CORPUS --out SECOND --minutes 8 --resume FIRST --finish
    python recipes/glm_mini_ch.py evaluate --corpus CORPUS --data DIR --out SECOND

The data folder holds ``poetry``, ``zh_title_csl`` and ``zh_title_law`` (train, valid and test as .jsonl.gz),
``poetry/pingze.json``, and what ``glm_mini_corpus.py`` adds. ``prepare`` writes all tokens into one memory-mapped file
with the vocabulary and the configuration. ``train`` keeps a learning rate after its warm-up and can be continued as
often as wanted, exactly; with ``--finish`` the rate falls to nothing at the end, and the model is written. ``--ablate``
first trains short runs that differ in one thing each. ``evaluate`` writes ``metrics.json``. One GPU is enough.
"""

import argparse
import json
import math
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from glm_mini_ablations import EMBEDDINGS, ablate, set_embeddings
from glm_mini_data import Corpus, read_parts, write_corpus
from glm_mini_eval import evaluate, held_out
from glm_mini_model import Functions
from glm_mini_pool import Pool, make
from glm_mini_tasks import Rows, examples
from glm_mini_training import Plan, Training, precision
from glm_mini_vocabulary import vocabulary
from poem_rules import Collection

from flagai.data.tokenizer import Tokenizer
from flagai.model.glm_model import GLMConfig, GLMForSeq2Seq

SIZES = {"mini": (9, 384, 6), "tiny": (2, 64, 2)}
_POSITIONS = 384
_FALLING = 0.8  # the share of the last call in which the rate falls


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("prepare", "train", "evaluate"))
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="for prepare and evaluate")
    parser.add_argument("--out", type=Path, help="for train and evaluate")
    parser.add_argument("--minutes", type=float, default=math.inf, help="everything included")
    parser.add_argument("--batch-tokens", type=int, default=49152)
    parser.add_argument("--workers", type=int, default=14, help="processes that make rows")
    parser.add_argument("--resume", type=Path, help="the folder of the run to go on from")
    parser.add_argument("--finish", action="store_true", help="end the schedule within --minutes, or at --steps")
    parser.add_argument("--ablate", type=float, default=0, help="seconds of each ablation before the training")
    parser.add_argument("--embeddings", type=Path, help="embeddings of the vocabulary for one ablation, .npy")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--tiny", action="store_true", help="a tiny model on a small slice")
    for name, value in vars(Plan()).items():
        kind: Any = argparse.BooleanOptionalAction if isinstance(value, bool) else None
        more = {"action": kind} if kind else {"type": type(value)}
        parser.add_argument(f"--{name.replace('_', '-')}", default=value, **more)
    return parser.parse_args()


def prepare(arguments: argparse.Namespace) -> None:
    """Write the corpus, the vocabulary and the configuration, which together are the tokenizer's folder."""
    parts = read_parts(arguments.data, 60 if arguments.tiny else None)
    out = arguments.corpus
    out.mkdir(parents=True, exist_ok=True)
    texts = [f"{row['title']}{row['form']}：{row['text']}" for row in parts["poems_train"]]
    fifth = len(parts["articles_valid"]) // 5
    articles = [*parts["articles_train"], *parts["articles_valid"][fifth:], *parts["laws_train"]]
    tokens = vocabulary([*texts, *(f"{row['title']}{row['text']}" for row in articles)])
    (out / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    layers, width, heads = SIZES["tiny" if arguments.tiny else "mini"]
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
    tones = json.loads((arguments.data / "poetry" / "pingze.json").read_text(encoding="utf-8"))
    collection = Collection(poem["text"] for poem in parts["poems_train"])
    poems = enumerate(parts["poems_train"])
    kept = [number for number, poem in poems if collection.keeps_all(poem["text"], poem["form"], tones)]
    write_corpus(out, Tokenizer.from_folder(out), parts, kept)
    print(json.dumps({part: len(rows) for part, rows in parts.items()} | {"poems that keep all rules": len(kept)}))


def new_model(corpus: Path, seed: int) -> GLMForSeq2Seq:
    """An untrained model on the device."""
    torch.manual_seed(seed)
    model = GLMForSeq2Seq(GLMConfig.from_json(corpus / "config.json"))
    model.init_weights()
    return model.to("cuda" if torch.cuda.is_available() else "cpu").train()


def rows_of(corpus: Corpus, tokenizer: Tokenizer, arguments: argparse.Namespace, device: torch.device) -> Pool:
    """All rows to learn from."""
    poems = {field: corpus.texts("poems_train", field) for field in ("prompt", "text", "title")}
    articles = {}
    for field in ("text", "title"):
        valid = corpus.texts("articles_valid", field)  # abstracts are few: four fifths are trained on, too
        parts = (corpus.texts("articles_train", field), valid[len(valid) // 5 :], corpus.texts("laws_train", field))
        articles[field] = [text for part in parts for text in part]
    more: dict[str, Any] = {"kept": corpus.kept, "texts": corpus.texts("laws_more", "text")}
    more |= {"prompts": corpus.texts("poems_more", "prompt"), "verses": corpus.texts("poems_more", "text")}
    tasks = examples(poems, articles, **more)
    rows = Rows(tokenizer, [example.target for example in tasks["title"]])
    made = make(rows, tasks, arguments.seed, arguments.workers)
    size = GLMConfig.from_json(arguments.corpus / "config.json").vocab_size
    print({task: len(entries) for task, entries in tasks.items()}, flush=True)
    settings = {"tokens": arguments.batch_tokens, "seed": arguments.seed, "vocab_size": size, "device": device}
    return Pool(made, rows, **settings)


def train(arguments: argparse.Namespace, started: float) -> None:
    """Train, or go on."""
    torch.set_float32_matmul_precision("high")
    # In torch 2.11, gradients of cuDNN's attention are wrong where the gradient's strides change between calls.
    torch.backends.cuda.enable_cudnn_sdp(False)
    deadline = started + arguments.minutes * 60
    corpus, tokenizer = Corpus(arguments.corpus), Tokenizer.from_folder(arguments.corpus)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pool = rows_of(corpus, tokenizer, arguments, device)  # before CUDA starts: it forks
    validation = held_out(tokenizer, corpus, "valid")
    plan = Plan(**{name: getattr(arguments, name) for name in vars(Plan())})
    print(f"rows made after {time.monotonic() - started:.0f} s", flush=True)
    using = Functions(precision(device), plan.dropout, compiled=arguments.compile)

    def run(out: Path, **changes: Any) -> Training:
        model = new_model(arguments.corpus, arguments.seed)
        return Training(model, pool, validation, replace(plan, **changes), out, using)

    embeddings = numpy.load(arguments.embeddings) if arguments.embeddings else None
    better: list[str] = []
    if arguments.ablate:
        better = ablate(run, embeddings, arguments.ablate, arguments.out)
    training = run(arguments.out)
    training.write(event="start", better=better, **vars(plan))
    if embeddings is not None and EMBEDDINGS in better:
        set_embeddings(training, embeddings)
    if arguments.resume:
        training.resume(arguments.resume / "state.safetensors")
    training.train(deadline, finish=_FALLING if arguments.finish else 0.0)
    if not arguments.finish:
        training.save()
        return
    for name in ("vocab.txt", "config.json"):
        shutil.copyfile(arguments.corpus / name, arguments.out / name)
    training.model.half().save_pretrained(arguments.out, max_shard_size="15MB")


def main() -> None:
    """Do what the command says."""
    started = time.monotonic()
    arguments = parse_arguments()
    if arguments.command == "prepare":
        prepare(arguments)
    elif arguments.command == "train":
        train(arguments, started)
    else:
        tones = json.loads((arguments.data / "poetry" / "pingze.json").read_text(encoding="utf-8"))
        data = read_parts(arguments.data, only=("valid", "test"))
        deadline = started + arguments.minutes * 60
        most = 4 if arguments.tiny else 1000
        for metrics in evaluate(arguments.out, Corpus(arguments.corpus), data, tones, deadline, most=most):
            # Written after every part: a limit of time cuts the last parts off, not all of them.
            text = json.dumps(metrics, ensure_ascii=False, indent=1)
            (arguments.out / "metrics.json").write_text(text + "\n", encoding="utf-8")
        print(text)
    print(f"done after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
