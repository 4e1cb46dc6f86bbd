"""Measures GLM-mini-ch on held-out data, beside what the data itself and simple baselines reach."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from glm_mini_data import fixed_batches
from glm_mini_tasks import Rows, examples
from poem_rules import Collection

from flagai.data.tokenizer import Tokenizer
from flagai.model.glm_model import GLMForSeq2Seq
from flagai.model.predictor.predictor import Predictor
from flagai.train.metrics import rouge_l

# Ways of writing poems that are compared; the first is the command line's.
DECODINGS: dict[str, dict[str, Any]] = {
    "top_k=10 top_p=0.9 repetition_penalty=1.2": {"top_k": 10, "top_p": 0.9, "repetition_penalty": 1.2},
    "top_k=0 top_p=0.9": {"top_k": 0, "top_p": 0.9},
    "top_k=0 top_p=0.95 temperature=0.9": {"top_k": 0, "top_p": 0.95, "temperature": 0.9},
    "top_k=0 top_p=0.8": {"top_k": 0, "top_p": 0.8},
    "top_k=0 top_p=1": {"top_k": 0, "top_p": 1.0},
}
# Ways of writing titles; the one that is best on held-out abstracts is measured on the test parts.
_TOGETHER = 100
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "num_beams=4": {"num_beams": 4},
    "num_beams=4 length_penalty=0.6": {"num_beams": 4, "length_penalty": 0.6},
    "num_beams=4 length_penalty=1": {"num_beams": 4, "length_penalty": 1.0},
    "num_beams=4 length_penalty=1 repetition_penalty=1.1": {
        "num_beams": 4,
        "length_penalty": 1.0,
        "repetition_penalty": 1.1,
    },
}
SAMPLES = ("春江花月夜", "桃花", "秋思", "送别", "西湖", "登高", "人工智能", "雪夜")

Data = dict[str, list[dict[str, str]]]


def evaluate(
    folder: Path, data: Data, tones: dict[str, str], deadline: float, *, smoke: bool = False
) -> Iterator[dict[str, Any]]:
    """Measure the model in a folder, part after part, until the time is over.

    Args:
        folder: the model.
        data: as the recipe reads it.
        tones: character -> tone.
        deadline: by the monotonic clock.
        smoke: only a few texts.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GLMForSeq2Seq.from_pretrained(folder, device=device, dtype=torch.float32)
    tokenizer = Tokenizer.from_folder(folder)
    run = Predictor(model, tokenizer)
    metrics: dict[str, Any] = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    metrics["perplexity_test"] = perplexities(model, tokenizer, data)
    yield metrics
    metrics["samples"] = samples(run)
    yield metrics
    collection = Collection(poem["text"] for poem in data["poems_train"])
    test = [poem for poem in data["poems_test"] if len(poem["title"]) <= 20]
    random.Random(1).shuffle(test)
    test = test[: 8 if smoke else 400]
    forms = [poem["form"] for poem in test]
    metrics["poems"] = {"the test part itself": collection.measure([poem["text"] for poem in test], forms, tones)}
    (first, *others) = DECODINGS
    metrics["poems"][first] = collection.measure(poems(run, test, DECODINGS[first]), forms, tones)
    yield metrics
    for found in title_measures(run, data, deadline, 4 if smoke else 1000):
        metrics["titles"] = found
        yield metrics
    for name in others:
        if time.monotonic() < deadline - 10:
            written = poems(run, test, DECODINGS[name])
            metrics["poems"][name] = collection.measure(written, forms, tones)
            yield metrics


def title_measures(run: Predictor, data: Data, deadline: float, most: int) -> Iterator[dict[str, Any]]:
    """ROUGE-L of titles: all ways of writing on held-out abstracts, the best of them on the test parts.

    Args:
        run: the model.
        data: as the recipe reads it.
        deadline: by the monotonic clock.
        most: texts of a part.
    """
    scores: dict[str, float] = {}
    for name, options in SEARCHES.items():
        for entry in titles(run, data["articles_valid"][:most], options, deadline):
            scores[name] = entry["rouge_l"]
    best = max(scores, key=scores.__getitem__, default="num_beams=4")
    found: dict[str, Any] = {"articles_valid": scores, "search": best}
    yield found
    for part in ("articles_test", "laws_test"):
        for entry in titles(run, data[part][:most], SEARCHES[best], deadline):
            found[part] = entry
            yield found


def perplexities(model: GLMForSeq2Seq, tokenizer: Tokenizer, data: Data) -> dict[str, float]:
    """The perplexity per token, ends included, of every task on the test part."""
    tasks = examples(tokenizer, data["poems_test"], data["articles_test"])
    rows = Rows(tokenizer, [example.target for example in tasks["title"]])
    found = {}
    for task, entries in tasks.items():
        total = count = 0.0
        for arrays in fixed_batches(rows, task, entries, 8192):
            batch = {name: torch.from_numpy(array).to(model.device, torch.long) for name, array in arrays.items()}
            with torch.inference_mode():
                loss = float(model(**batch)["loss"])
            total += loss * float(arrays["loss_mask"].sum())
            count += float(arrays["loss_mask"].sum())
        found[task] = round(math.exp(min(total / count, 50)), 3)
    return found


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
