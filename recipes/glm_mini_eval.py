"""Measures GLM-mini-ch on held-out data, beside what the data itself and simple baselines reach."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from glm_mini_data import PARTS, Corpus
from glm_mini_model import FastGLM, Functions
from glm_mini_pool import Part, tables
from glm_mini_tasks import Rows, examples, expanded
from poem_rules import Collection

from flagai.data.tokenizer import Tokenizer
from flagai.model.glm_model import GLMForSeq2Seq
from flagai.model.predictor.predictor import Predictor
from flagai.train.metrics import rouge_l

# Ways of writing poems without rules that are compared, so that the model itself is measured; see measure_poems.py.
DECODINGS: dict[str, dict[str, Any]] = {
    "top_k=0 top_p=0.75 repetition_penalty=1.5": {"top_k": 0, "top_p": 0.75, "repetition_penalty": 1.5},
    "top_k=10 top_p=0.9 repetition_penalty=1.2": {"top_k": 10, "top_p": 0.9, "repetition_penalty": 1.2},
    "top_k=10 top_p=0.9 repetition_penalty=1.5": {"top_k": 10, "top_p": 0.9, "repetition_penalty": 1.5},
    "top_k=10 top_p=0.9 repetition_penalty=2": {"top_k": 10, "top_p": 0.9, "repetition_penalty": 2.0},
    "top_k=5 repetition_penalty=1.5": {"top_k": 5, "repetition_penalty": 1.5},
    "top_k=0 top_p=0.9": {"top_k": 0, "top_p": 0.9},
    "top_k=0 top_p=0.8 repetition_penalty=1.2": {"top_k": 0, "top_p": 0.8, "repetition_penalty": 1.2},
    "top_k=0 top_p=0.8 repetition_penalty=1.5": {"top_k": 0, "top_p": 0.8, "repetition_penalty": 1.5},
    "top_k=0 top_p=1": {"top_k": 0, "top_p": 1.0},
}
# Ways of writing titles, compared on held-out abstracts; the command line's is measured on the test parts.
SEARCH = "num_beams=4 length_penalty=1"
_TOGETHER = 125
_KINDS = ("poems", "articles")
_EVALUATED = 16384  # tokens of a batch
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "num_beams=4 length_penalty=1": {"num_beams": 4, "length_penalty": 1.0},
    "num_beams=8 length_penalty=1": {"num_beams": 8, "length_penalty": 1.0},
    "num_beams=4 length_penalty=1.5": {"num_beams": 4, "length_penalty": 1.5},
}
SAMPLES = ("春江花月夜", "桃花", "秋思", "送别", "西湖", "登高", "人工智能", "雪夜")

Data = dict[str, list[dict[str, str]]]


def evaluate(
    folder: Path, corpus: Corpus, data: Data, tones: dict[str, str], deadline: float, *, most: int = 1000
) -> Iterator[dict[str, Any]]:
    """Measure the model in a folder, part after part, until the time is over.

    Args:
        folder: the model.
        corpus: the tokens of the data.
        data: the rows of the validation and test parts.
        tones: character -> tone.
        deadline: by the monotonic clock.
        most: texts of a part.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GLMForSeq2Seq.from_pretrained(folder, device=device, dtype=torch.float32)
    tokenizer = Tokenizer.from_folder(folder)
    run = Predictor(model, tokenizer)
    metrics: dict[str, Any] = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    losses = held_out_losses(model, tokenizer, corpus, "test")
    metrics["perplexity_test"] = {task: round(math.exp(min(loss, 50)), 3) for task, loss in losses.items()}
    yield metrics
    words = Rows(tokenizer, []).vocabulary
    collection = Collection("".join(words[token] for token in poem) for poem in corpus.texts("poems_train", "text"))
    test = [poem for poem in data["poems_test"] if len(poem["title"]) <= 20]
    random.Random(1).shuffle(test)
    test = test[: min(most, 400)]
    forms = [poem["form"] for poem in test]
    metrics["poems"] = {"the test part itself": collection.measure([poem["text"] for poem in test], forms, tones)}
    (first, *others) = DECODINGS
    metrics["poems"][first] = collection.measure(poems(run, test, DECODINGS[first]), forms, tones)
    yield metrics
    for found in title_measures(run, data, deadline, most):
        metrics["titles"] = found
        yield metrics
    metrics["samples"] = samples(run)
    yield metrics
    for name in others:
        if time.monotonic() < deadline - 6:
            metrics["poems"][name] = collection.measure(poems(run, test, DECODINGS[name]), forms, tones)
            yield metrics
    for found in search_measures(run, data, deadline, most):
        metrics.setdefault("titles", {})["articles_valid"] = found
        yield metrics


def title_measures(run: Predictor, data: Data, deadline: float, most: int) -> Iterator[dict[str, Any]]:
    """ROUGE-L of titles of the test parts, written as ``flagai title`` does.

    Args:
        run: the model.
        data: the rows of the test parts.
        deadline: by the monotonic clock.
        most: texts of a part.
    """
    found: dict[str, Any] = {"search": SEARCH}
    for part in ("articles_test", "laws_test"):
        for entry in titles(run, data[part][:most], SEARCHES[SEARCH], deadline):
            found[part] = entry
            yield found


def search_measures(run: Predictor, data: Data, deadline: float, most: int) -> Iterator[dict[str, float]]:
    """ROUGE-L of titles of held-out abstracts by all ways of writing; arguments as of :func:`title_measures`."""
    held_out_articles = data["articles_valid"][: len(data["articles_valid"]) // 5]
    scores: dict[str, float] = {}
    for name, options in SEARCHES.items():
        for entry in titles(run, held_out_articles[:most], options, deadline):
            scores[name] = entry["rouge_l"]
        yield dict(scores)


def held_out(tokenizer: Tokenizer, corpus: Corpus, split: str) -> dict[str, Part]:
    """The rows of every task on the validation or test part, always the same, in tables of equal width."""
    poems, articles = ({f: corpus.texts(f"{kind}_{split}", f) for f in PARTS[f"{kind}_{split}"][2]} for kind in _KINDS)
    if split == "valid":  # four fifths are trained on
        articles = {field: texts[: len(texts) // 5] for field, texts in articles.items()}
    tasks = {task: entries for task, entries in examples(poems, articles).items() if entries}
    rows = Rows(tokenizer, [example.target for example in tasks["title"]])
    pad = tokenizer.get_command_id("pad")
    found = {}
    for task, entries in tasks.items():
        found[task] = tables([(0, rows.row(task, entry, None)) for entry in expanded(tokenizer, task, entries)], pad)
        for table in found[task].values():
            del table["task"], table["asked"]
    return found


@torch.inference_mode()
def losses_of(fast: FastGLM, parts: dict[str, Part]) -> dict[str, float]:
    """The loss per token, ends included, of every task."""
    device = fast.model.device
    found = {}
    for task, keyed in parts.items():
        total = count = 0.0
        for (_, width), table in keyed.items():
            each = _EVALUATED // width
            for start in range(0, len(table["ids"]), each):
                batch = {
                    name: torch.from_numpy(array[start : start + each]).to(device).long()
                    for name, array in table.items()
                }
                asked = int((batch["targets"] >= 0).sum())
                total += float(fast.loss(batch, asked))
                count += asked
        found[task] = total / count
    return found


def held_out_losses(model: GLMForSeq2Seq, tokenizer: Tokenizer, corpus: Corpus, split: str) -> dict[str, float]:
    """The loss per token of every task on the validation or test part."""
    return losses_of(FastGLM(model, Functions(torch.float32)), held_out(tokenizer, corpus, split))


def samples(run: Predictor) -> dict[str, str]:
    """Poems for people to read."""
    prompts = [f"{title}：{form}" for title in SAMPLES for form in ("七言绝句", "五言律诗")]
    written = run.write(prompts, out_max_length=80, do_sample=True, seed=1, top_p=0.9, top_k=0)
    blanks = run.write(["床前[MASK]光，疑是地上霜。", "春眠不觉晓，[sMASK]。", "白日依山尽，[gMASK]"], num_beams=4)
    return {
        **dict(zip(prompts, written, strict=True)),
        "blanks": " | ".join(blanks),
    }


def poems(run: Predictor, test: Sequence[dict[str, str]], options: dict[str, Any]) -> list[str]:
    """A poem for every title and form of the test part."""
    prompts = [f"{poem['title']}：{poem['form']}" for poem in test]
    seeds = range(len(prompts))
    written: list[str] = []
    for start in range(0, len(prompts), 100):
        part = slice(start, start + 100)
        asked = options | {"do_sample": True, "seeds": tuple(seeds[part])}
        written += run.write(prompts[part], out_max_length=80, **asked)
    return written


def titles(
    run: Predictor, articles: Sequence[dict[str, str]], search: dict[str, Any], deadline: float
) -> Iterator[dict[str, Any]]:
    """ROUGE-L of titles, beside the beginning of the text, batch after batch."""
    scores: list[float] = []
    baseline: list[float] = []
    mean = sum(len(article["title"]) for article in articles) // max(len(articles), 1)
    for start in range(0, len(articles), _TOGETHER):
        if time.monotonic() > deadline - 8:
            return
        part = articles[start : start + _TOGETHER]
        texts = [article["text"].lower() for article in part]
        written = run.write(texts, input_max_length=318, out_max_length=48, **search)
        for article, text, title in zip(part, texts, written, strict=True):
            scores.append(rouge_l(title, article["title"].lower()))
            baseline.append(rouge_l(text[:mean], article["title"].lower()))
        yield {
            "texts": len(scores),
            "rouge_l": round(sum(scores) / len(scores), 4),
            f"rouge_l_of_the_first_{mean}_characters": round(sum(baseline) / len(baseline), 4),
            "examples": [
                {"title": one, "reference": article["title"]} for one, article in zip(written[:5], part, strict=False)
            ],
        }
