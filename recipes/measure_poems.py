"""Measures poems for held-out titles: written without rules, with those of --free, and with all; and the collection.

    python recipes/measure_poems.py --data DIR [--model FOLDER] [--titles 400] [--out results.json]

DIR holds ``train.jsonl.gz``, ``test.jsonl.gz`` and ``pingze.json`` as ``glm_mini_ch.py`` takes them. Each title has one
poem, sampled with a seed of its own and the task's defaults: twelve minutes on one core, half a minute on a GPU.
"""

import argparse
import gzip
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from poem_data import recurrence
from poem_rules import Collection, rhyming_pairs, share

import flagai
from flagai.poetry import faults
from flagai.poetry.verse import poem_data

Poem = dict[str, str]
# What was usual before there were rules.
WITHOUT_RULES = {"do_sample": True, "top_k": 10, "top_p": 0.9, "repetition_penalty": 1.2}


def ways(pipeline: Any) -> dict[str, Callable[[list[str], tuple[int, ...]], list[str]]]:
    """The ways of writing that are compared."""
    return {
        "without rules": lambda prompts, seeds: pipeline.predictor.write(
            prompts, out_max_length=80, seeds=seeds, **WITHOUT_RULES
        ),
        "--free": lambda prompts, seeds: pipeline(prompts, seeds=seeds, strict=False),
        "--strict": lambda prompts, seeds: pipeline(prompts, seeds=seeds),
    }


def measures(texts: Sequence[str], asked: Sequence[Poem], known: Collection, tones: dict[str, str]) -> dict[str, Any]:
    """The shares of the table.

    Args:
        texts: the poems.
        asked: the poems of the collection with the same titles and forms.
        known: the lines and rhymes of the poems that the model has learned.
        tones: character -> tone.
    """
    forms = [poem["form"] for poem in asked]
    broken = [faults(text, form) for text, form in zip(texts, forms, strict=True)]
    recurring = [recurrence(text) for text in texts]
    pairs = [pair for text in texts for pair in rhyming_pairs(text)]
    rhymes_of = poem_data().rhymes_of
    return known.measure(texts, forms, tones) | {
        "ends_in_one_rhyme": share(bool(rhymes_of(one) & rhymes_of(other)) and one != other for one, other in pairs),
        "poems_in_one_pattern": share(not {"form", "tones"} & {*each} for each in broken),
        "poems_in_one_rhyme": share(not {"form", "rhyme"} & {*each} for each in broken),
        "a_character_three_times": share(uses >= 3 for uses, _, _ in recurring),
        "a_doubled_character": share(doubled > 0 for _, _, doubled in recurring),
        "characters_again": round(sum(again for _, again, _ in recurring) / len(recurring), 3),
    }


def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="default: the model that comes with the package")
    parser.add_argument("--titles", type=int, default=400)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    tones = json.loads((given.data / "pingze.json").read_text(encoding="utf-8"))
    known = Collection(poem["text"] for poem in _read(given.data / "train.jsonl.gz"))
    asked = [poem for poem in _read(given.data / "test.jsonl.gz") if len(poem["title"]) <= 20]
    random.Random(1).shuffle(asked)
    asked = asked[: given.titles]
    found: dict[str, Any] = {}
    _tell(found, "the collection", [poem["text"] for poem in asked], measures, asked, known, tones)
    pipeline = flagai.load("poetry", given.model)
    prompts = [f"{poem['title']}：{poem['form']}" for poem in asked]
    for name, write in ways(pipeline).items():
        begin, texts = time.process_time(), list[str]()
        for start in range(0, len(prompts), 100):
            part = range(start, min(start + 100, len(prompts)))
            texts += write(prompts[start : start + 100], tuple(part))
        _tell(found, name, texts, measures, asked, known, tones)
        found[name]["seconds"] = round(time.process_time() - begin, 1)
        found[name]["poems"] = dict(zip(prompts, texts, strict=True))
    if given.out is not None:
        given.out.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> list[Poem]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _tell(found: dict[str, Any], name: str, texts: list[str], measure: Any, *about: Any) -> None:
    found[name] = measure(texts, *about)
    print(name, json.dumps(found[name]), flush=True)


if __name__ == "__main__":
    main()
