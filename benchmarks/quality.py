"""What 8 and 4 bits cost: the same measures with the weights as they are and quantized, on a CPU.

    python benchmarks/quality.py --poems poetry/test.jsonl.gz [--limit 500] [--out quality.json]
    python benchmarks/quality.py --sts stsb/test.jsonl.gz --embedder me5-small-bert-zh
    python benchmarks/quality.py --t5 flan-t5-small --articles titles/test.jsonl.gz

Poems are JSON lines with title, form and text, for GLM-mini-ch, which comes with the package; sentence pairs have
text1, text2 and score; articles have text. Give the data that you have; the others are left out.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._measure import machine, versions
from benchmarks.stsb import read_pairs, spearman
from flagai.catalog.packages import find_model
from flagai.data.prepare import glm
from flagai.data.tokenizer import Tokenizer
from flagai.generation import Decoding, Prompt, generate
from flagai.model.glm_model import GLMForSeq2Seq
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.model.t5_model import T5Model

WAYS = (None, "int8", "int4")
_BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poems", type=Path)
    parser.add_argument("--sts", type=Path)
    parser.add_argument("--embedder", default="me5-small-bert-zh")
    parser.add_argument("--t5", type=Path)
    parser.add_argument("--articles", type=Path)
    parser.add_argument("--limit", type=int, default=500, help="how many poems and articles")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "versions": versions()}
    items: dict[str, Callable[[], dict[str, Any]]] = {}
    if options.poems:
        items["GLM-mini-ch, poems"] = lambda: poems(read_pairs(options.poems)[: options.limit])
    if options.sts:
        items[f"{options.embedder}, sentence pairs"] = lambda: sentences(read_pairs(options.sts), options.embedder)
    if options.t5 and options.articles:
        items["T5, titles"] = lambda: titles(read_pairs(options.articles)[: options.limit], options.t5)
    for name, measure in items.items():
        report[name] = measure()
        print(name, json.dumps(report[name], indent=1, ensure_ascii=False), flush=True)
        if options.out:
            options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")


def size(model: Any) -> float:
    return round(sum(parameter.nbytes for parameter in model.parameters()) / 1e6, 1)


def beside(found: torch.Tensor, exact: torch.Tensor) -> dict[str, float]:
    """How far logits lie from the exact ones, and how often the best token is the same."""
    centred, error = exact - exact.mean(-1, keepdim=True), found - exact
    error = error - error.mean(-1, keepdim=True)  # a constant changes no probability
    return {
        "relative error of logits": round(float(error.norm() / centred.norm()), 5),
        "same best token": round(float((found.argmax(-1) == exact.argmax(-1)).float().mean()), 4),
    }


@torch.inference_mode()
def poems(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Perplexity of poems, given title and form, per token."""
    folder = find_model("GLM-mini-ch")
    tokenizer = Tokenizer.from_folder(folder)
    batches = [
        glm.seq2seq(
            tokenizer, [f"{poem['title']}：{poem['form']}" for poem in part], [str(poem["text"]) for poem in part]
        )
        for part in parts(entries)
    ]
    exact: list[torch.Tensor] = []
    found: dict[str, Any] = {"poems": len(entries)}
    for way in WAYS:
        model = GLMForSeq2Seq.from_pretrain(folder.parent, folder.name, dtype=torch.float32, quantize=way)
        total = count = 0.0
        logits = []
        for batch in batches:
            output = model(**batch)
            mask = batch["loss_mask"].bool()
            total += float(output["loss"]) * int(mask.sum())
            count += int(mask.sum())
            logits.append(output["logits"].view(*mask.shape, -1)[mask])
        exact = exact or logits
        found[str(way)] = {"perplexity": round(math.exp(total / count), 3), "MB": size(model)}
        found[str(way)] |= beside(torch.cat(logits), torch.cat(exact)) if way else {}
    return found


@torch.inference_mode()
def sentences(pairs: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Spearman correlation of cosines with the scores of people."""
    found: dict[str, Any] = {"pairs": len(pairs)}
    wanted = torch.tensor([pair["score"] for pair in pairs], dtype=torch.double)
    for way in WAYS:
        embedder = SentenceEmbedder.from_folder(find_model(name), dtype=torch.float32, quantize=way)
        scores = embedder.match([pair["text1"] for pair in pairs], [pair["text2"] for pair in pairs])
        found[str(way)] = {"Spearman": round(spearman(scores.double(), wanted), 4), "MB": size(embedder.model)}
    return found


@torch.inference_mode()
def titles(entries: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Greedy titles: how many stay the same, and the probability that the model gives to the original ones."""
    tokenizer = Tokenizer.from_folder(folder)
    prompts = [Prompt((*tokenizer.encode(str(entry["text"]))[:256], 1)) for entry in entries]
    decoding = Decoding(max_new_tokens=24, stop_token_ids=(1,))
    found: dict[str, Any] = {"articles": len(entries)}
    originals: list[tuple[int, ...]] = []
    exact: list[torch.Tensor] = []
    for way in WAYS:
        model = T5Model.from_pretrained(folder, dtype=torch.float32, quantize=way)
        written = [row[0].ids for part in parts(prompts) for row in generate(model, list(part), decoding)]
        originals = originals or written
        logits, losses = forced(model, prompts, originals)
        exact = exact or logits
        same = sum(ours == theirs for ours, theirs in zip(written, originals, strict=True))
        found[str(way)] = {
            "perplexity of the original's titles": round(math.exp(torch.cat(losses).mean()), 3),
            "same titles": f"{same} of {len(originals)}",
            "MB": size(model),
            "example": tokenizer.decode(list(written[0])),
        }
        found[str(way)] |= beside(torch.cat(logits), torch.cat(exact)) if way else {}
    return found


def forced(
    model: T5Model, prompts: Sequence[Prompt], answers: Sequence[tuple[int, ...]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits and losses of given answers, token by token."""
    logits, losses = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        wanted = torch.tensor([[*answer, 1]])
        given = torch.tensor([[0, *answer]])
        output = model(input_ids=torch.tensor([prompt.ids]), decoder_input_ids=given)["logits"][0]
        logits.append(output)
        losses.append(torch.nn.functional.cross_entropy(output, wanted[0], reduction="none"))
    return logits, losses


def parts(entries: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(entries), _BATCH):
        yield entries[start : start + _BATCH]


if __name__ == "__main__":
    main()
