"""Short runs of GLM-mini-ch that differ in one thing each, in one process: rows and compiled code are shared."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from glm_mini_training import Training

ALL, EMBEDDINGS = "all of it", "embeddings of a sentence BERT"
# What differs: settings of the plan, shares of tasks.
ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    ALL: ({}, {}),
    "AdamW in place of Muon": ({"muon": False}, {}),
    "without poems of other forms": ({}, {"poem_more": 0.0}),
    "without a change of poems while the rate falls": ({}, {"poem": 1.0, "poem_kept": 0.0, "poem_more": 1.0}),
    EMBEDDINGS: ({}, {}),
}
_FALLING = 0.4  # the share of a run in which its rate falls
_COMPILING, _PROFILED = 20, 5  # steps


def ablate(run: Callable[..., Training], embeddings: Any, seconds: float, out: Path) -> list[str]:
    """Train each for as long, and write the losses on the validation part.

    Args:
        run: makes a run in a folder, with changes of the plan.
        embeddings: rows of the vocabulary, zeros where a token has none; None: no such run.
        seconds: of each run.
        out: the folder of ``ablations.json``.

    Returns:
        The runs whose poems and titles together have a smaller loss than those of the first.
    """
    found = {}
    run(out / "compiling").train(until=_COMPILING)
    for number, (name, (changes, of_tasks)) in enumerate(ABLATIONS.items()):
        if name == EMBEDDINGS and embeddings is None:
            continue
        training = run(out / f"ablation-{number}", **changes)
        training.changes = of_tasks
        if name == EMBEDDINGS:
            set_embeddings(training, embeddings)
        losses = training.train(time.monotonic() + seconds, _FALLING)
        passes = training.number + round(training.share, 2)
        found[name] = {"steps": training.step, "passes": passes, "tokens": training.tokens, **losses}
        (out / "ablations.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if not number:
            training.profile(_PROFILED)
    sums = {name: entry["poem"] + entry["title"] for name, entry in found.items()}
    return [name for name, loss in sums.items() if loss < sums[ALL]]


@torch.no_grad()
def set_embeddings(training: Training, embeddings: Any) -> None:
    """Begin with given embeddings, centred and scaled as untrained ones are.

    Args:
        training: a run that has not begun.
        embeddings: rows of the vocabulary; those that are zero are left as they are.
    """
    token = training.fast.embed.token.weight
    given = torch.from_numpy(embeddings).to(token)
    known = given.abs().sum(1) > 0
    token[known] = (given[known] - given[known].mean(0)) * (token.std() / given[known].std())
