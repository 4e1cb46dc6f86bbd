"""Greedy titles with prompt lookup and without, by real weights: steps, time, and whether the answers are the same.

    PYTHONPATH=src:. python benchmarks/lookup.py                              # GLM-mini-ch and two laws
    PYTHONPATH=src:. python benchmarks/lookup.py --model FOLDER --texts articles.jsonl [--prefix "summarize: "]

Both ways take turns, and sums of the processor's time over the fastest of all rounds count. ``tokens a step`` is what
drafts are worth; ``faster`` is what remains of it, for a step with a draft costs more than one without.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks._measure import machine, versions
from flagai.auto_model.auto_loader import AutoLoader
from flagai.generation import Prompt
from flagai.generation.replay.steps import CapturedSteps, EagerSteps
from flagai.model.predictor.options import Options
from flagai.model.predictor.text_generation import TextGenerator

# Chinese laws, which are in the public domain; their titles repeat words of their first articles.
LAWS = (
    "为了继承和弘扬中医药，保障和促进中医药事业发展，保护人民健康，制定本法。本法所称中医药，是包括汉族和少数民族医药在内的我国"
    "各民族医药的统称，是反映中华民族对生命、健康和疾病的认识，具有悠久历史传统和独特理论及技术方法的医药学体系。",
    "为了做好民兵工作，加强国防后备力量建设，根据《中华人民共和国兵役法》的有关规定，制定本条例。民兵是中国共产党领导的不脱离生产的"
    "群众武装组织，是中华人民共和国武装力量的组成部分，是中国人民解放军的助手和后备力量。",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="GLM-mini-ch", help="a name or a folder")
    parser.add_argument("--texts", type=Path, help="JSON lines with the field text")
    parser.add_argument("--prefix", default="", help="stands before every text")
    parser.add_argument("--count", type=int, default=24, help="how many texts")
    parser.add_argument("--length", type=int, default=66, help="how many tokens an answer may have")
    parser.add_argument("--drafts", default="3,7,15", help="lengths of drafts")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loader = AutoLoader("title-generation", model_name=options.model)
    texts: Sequence[str] = LAWS
    if options.texts:
        lines = options.texts.read_text(encoding="utf-8").splitlines()[: options.count]
        texts = [options.prefix + json.loads(line)["text"] for line in lines]
    writer = TextGenerator(loader.get_model(), loader.get_tokenizer())
    found: dict[str, Any] = {}
    for batch in (int(size) for size in options.batches.split(",")):
        drafts = [0, *(int(count) for count in options.drafts.split(","))]
        found[f"batch {batch}"] = compare(writer, texts, drafts, batch, options.length, options.rounds)
        print(json.dumps({f"batch {batch}": found[f"batch {batch}"]}, indent=1), flush=True)
    if options.out is not None:
        settings = {name: str(value) for name, value in vars(options).items() if name != "out"}
        report = {"settings": settings, "machine": machine(), "versions": versions(), "lookup": found}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def compare(
    writer: TextGenerator, texts: Sequence[str], drafts: Sequence[int], batch: int, length: int, rounds: int
) -> dict[str, Any]:
    """What each length of drafts costs and gives; the first one is what the others are compared with.

    Args:
        writer: the model and its tokenizer.
        texts: what is written about.
        drafts: lengths of drafts; 0 for none.
        batch: how many texts run together.
        length: how many tokens an answer may have.
        rounds: how often everything is done.
    """
    protocol = writer.protocol(masked=False)
    prompts = writer._prompts(protocol, texts, Options.read(length, {}), 512)
    batches = [prompts[begin : begin + batch] for begin in range(0, len(prompts), batch)]
    best = {draft: [float("inf")] * len(batches) for draft in drafts}
    steps, answers = dict.fromkeys(drafts, 0), {draft: [None] * len(batches) for draft in drafts}
    for turn in range(rounds):
        for number, part in enumerate(batches):
            for draft in drafts:
                asked = Options.read(length, {"prompt_lookup_num_tokens": draft})
                work = _asking(writer, protocol, part, asked)
                seconds, count, answers[draft][number] = timed(work)
                best[draft][number] = min(best[draft][number], seconds)
                steps[draft] += count if not turn else 0
    found: dict[str, Any] = {"texts": len(texts), "prompt tokens": sum(len(prompt.ids) for prompt in prompts)}
    ids = {draft: [row[0].ids for part in answers[draft] for row in part] for draft in drafts}  # type: ignore[union-attr,attr-defined]
    for draft in drafts:
        found[f"draft {draft}"] = {
            "tokens": sum(map(len, ids[draft])),
            "steps": steps[draft],
            "fewer steps": round(steps[drafts[0]] / steps[draft], 2),
            "seconds": round(sum(best[draft]), 3),
            "faster": round(sum(best[drafts[0]]) / sum(best[draft]), 2),
            "different answers": sum(ours != theirs for ours, theirs in zip(ids[draft], ids[drafts[0]], strict=True)),
        }
    return found


def _asking(writer: TextGenerator, protocol: Any, prompts: list[Prompt], asked: Options) -> Callable[[], Any]:
    return lambda: writer.answers(protocol, prompts, asked)


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many steps the engine makes in the body."""
    steps = [0]
    kinds = (EagerSteps, CapturedSteps)
    runs = [kind.run for kind in kinds]

    def counting(run: Any) -> Any:
        def counted_run(*arguments: Any) -> None:
            steps[0] += 1
            run(*arguments)

        return counted_run

    for kind, run in zip(kinds, runs, strict=True):
        kind.run = counting(run)  # type: ignore[method-assign]
    try:
        yield steps
    finally:
        for kind, run in zip(kinds, runs, strict=True):
            kind.run = run  # type: ignore[method-assign]


def timed(work: Callable[[], Any]) -> tuple[float, int, Any]:
    """Seconds (of the processor, or of the GPU if there is one), steps, and what the work finds."""
    clock = time.process_time
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        clock = time.perf_counter
    start = clock()
    with counted() as steps:
        found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start, steps[0], found


if __name__ == "__main__":
    main()
