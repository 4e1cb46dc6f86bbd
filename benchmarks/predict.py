"""Sentence embeddings on a CPU: this library, transformers, and the matrix products alone.

    python benchmarks/predict.py [--model minilm] [--texts 256] [--rounds 5] [--threads 2] [--out results.json]

A BERT-base with random weights (12 layers of 768, vocabulary 21128), or the all-MiniLM-L6-v2 that the extra
"minilm" installs (6 layers of 384), float32, embeds texts of realistic lengths
(log-normal, mean 30, 5 to 128), given as token ids. The contenders run in turns on slices of the texts, so that other
work on the machine hits all of them; a contender's time is the sum over the slices of the medians over the rounds.
On a busy machine, read the ratios of the processor time of ``--threads 1``: waiting for a core does not count there.

    arrival_128  transformers, padded batches of 128 in the order of arrival
    arrival_32   the same in batches of 32
    sorted_32    the same, sorted by length within the slice
    flagai       SentenceEmbedder.embed_ids: packed, no padding
    roof         nothing but the encoder's matrix products, of the real tokens only, by the layers that flagai uses
    roof_torch   the same by torch.nn.functional.linear, as transformers does
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from _measure import machine, versions
from torch import nn
from torch.nn import functional as F

from flagai.catalog.packages import find_model
from flagai.catalog.tasks import DEFAULT_EMBEDDING
from flagai.model.bert_model import BertForEmbedding
from flagai.model.packing import pack_sequences
from flagai.model.predictor.embedder import SentenceEmbedder

_VOCABULARY = 21128
_LENGTHS = (3.2, 0.65)  # of the logarithms: 99 % of the lengths lie between 5 and 128
_TARGETS = {"speedup_over_arrival_128": 4.0, "speedup_over_arrival_32": 4.0, "share_of_roof": 0.7}
Texts = list[list[int]]
Embed = Callable[[Texts], torch.Tensor]
Times = dict[str, list[list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("bert", "minilm"), default="bert")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--slice", type=int, default=128, help="texts that one contender embeds at a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    texts = make_texts(options.texts)
    slices = [texts[begin : begin + options.slice] for begin in range(0, len(texts), options.slice)]
    contenders = make_contenders(options.model)
    difference = compare(contenders, texts[:32])
    times, processor = measure(contenders, slices, options.rounds)
    report = summarise(times, processor, texts) | {"largest_difference": difference}
    show(report)
    if options.out is not None:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        found = {"settings": settings, "machine": machine(), "versions": versions(), "embedding": report}
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def make_texts(count: int) -> Texts:
    """Random token ids, of log-normal lengths."""
    torch.manual_seed(0)
    lengths = torch.distributions.LogNormal(*_LENGTHS).sample((count,)).round().clamp(5, 128).long()
    return [torch.randint(5, _VOCABULARY, (int(length),)).tolist() for length in lengths]


def make_contenders(model: str) -> dict[str, Embed]:
    """Two implementations with the same weights, and the roof."""
    if model == "minilm":
        kept: Any = find_model(DEFAULT_EMBEDDING)
        theirs = transformers.BertModel.from_pretrained(kept, add_pooling_layer=False).eval()
        ours = SentenceEmbedder(BertForEmbedding.from_pretrained(kept), _NoTokenizer())
    else:
        theirs = transformers.BertModel(transformers.BertConfig(vocab_size=_VOCABULARY)).eval()
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            ours = SentenceEmbedder(BertForEmbedding.from_pretrained(folder), _NoTokenizer())
    return {
        "arrival_128": lambda texts: padded(theirs, texts, 128),
        "arrival_32": lambda texts: padded(theirs, texts, 32),
        "sorted_32": lambda texts: padded(theirs, sorted(texts, key=len), 32),
        "flagai": ours.embed_ids,
        "roof": lambda texts: matrix_products(ours.model, texts, lambda layer, rows: layer(rows)),
        "roof_torch": lambda texts: matrix_products(
            ours.model, texts, lambda layer, rows: F.linear(rows, layer.weight, layer.bias)
        ),
    }


class _NoTokenizer:
    """Stands where a tokenizer would be: the texts are token ids."""


@torch.inference_mode()
def padded(model: Any, texts: Texts, batch: int) -> torch.Tensor:
    """What users of transformers write: batches, padding, a mean over the mask."""
    vectors = []
    for begin in range(0, len(texts), batch):
        rows = texts[begin : begin + batch]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors.append((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    return torch.cat(vectors)


@torch.inference_mode()
def matrix_products(
    model: BertForEmbedding, texts: Texts, product: Callable[[nn.Linear, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The six products of every block on as many rows as there are real tokens, in the same packs."""
    last = torch.empty(0)
    for pack in pack_sequences(texts, device=model.device):
        sizes = (model.config.hidden_size, model.config.intermediate_size)
        narrow, wide = (torch.randn(1, pack.row.total, size) for size in sizes)
        for block in model.model.blocks:
            attention, feed_forward = block.attention, block.feed_forward
            for layer in (attention.q, attention.k, attention.v, attention.out, feed_forward.up):
                product(layer, narrow)
            last = product(feed_forward.down, wide)
    return last


def compare(contenders: dict[str, Embed], texts: Texts) -> float:
    """The largest difference between the two implementations' embeddings."""
    return float((contenders["arrival_32"](texts) - contenders["flagai"](texts)).abs().max())


def measure(contenders: dict[str, Embed], slices: list[Texts], rounds: int) -> tuple[Times, Times]:
    """Wall and processor seconds of each contender, per slice and round; all contenders take turns."""
    wall: Times = {name: [[] for _ in slices] for name in contenders}
    processor: Times = {name: [[] for _ in slices] for name in contenders}
    for _ in range(rounds):
        for index, texts in enumerate(slices):
            for name, embed in contenders.items():
                begin, used = time.perf_counter(), time.process_time()
                embed(texts)
                wall[name][index].append(time.perf_counter() - begin)
                processor[name][index].append(time.process_time() - used)
    return wall, processor


def summarise(times: Times, processor: Times, texts: Texts) -> dict[str, Any]:
    """Seconds, sentences per second, and the two ratios that count, by medians and by minima."""
    medians = {name: sum(map(statistics.median, slices)) for name, slices in times.items()}
    fastest = {name: sum(map(min, slices)) for name, slices in times.items()}
    return {
        "texts": len(texts),
        "mean_tokens": round(sum(map(len, texts)) / len(texts), 2),
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "seconds_fastest": {name: round(value, 3) for name, value in fastest.items()},
        "sentences_per_second": {name: round(len(texts) / value, 1) for name, value in medians.items()},
        "ratios": _ratios(medians),
        "ratios_fastest": _ratios(fastest),
        "ratios_processor": _ratios({name: sum(map(min, slices)) for name, slices in processor.items()}),
        "targets": _TARGETS,
        "all_seconds": {name: [[round(x, 3) for x in row] for row in rows] for name, rows in times.items()},
    }


def _ratios(seconds: dict[str, float]) -> dict[str, float]:
    ours = seconds["flagai"]
    return {
        **{
            f"speedup_over_{name}": round(seconds[name] / ours, 2)
            for name in ("arrival_128", "arrival_32", "sorted_32")
        },
        "share_of_roof": round(seconds["roof"] / ours, 3),
        "share_of_roof_torch": round(seconds["roof_torch"] / ours, 3),
    }


def show(report: dict[str, Any]) -> None:
    print(f"{report['texts']} texts of {report['mean_tokens']} tokens")
    print(f"largest difference of flagai's and transformers' embeddings: {report['largest_difference']:.1e}")
    for name, seconds in report["seconds"].items():
        print(f"  {name:12} {seconds:8.2f} s {report['sentences_per_second'][name]:8.1f} sentences/s")
    for name, value in report["ratios"].items():
        target = f", target {_TARGETS[name]}" if name in _TARGETS else ""
        fastest, processor = report["ratios_fastest"][name], report["ratios_processor"][name]
        print(f"  {name}: {value} (by the fastest rounds {fastest}, by processor time {processor}{target})")


if __name__ == "__main__":
    main()
