"""Sentence similarity on the STS benchmark: Spearman correlation of the cosine with the human scores, and speed.

    python benchmarks/stsb.py --data stsb/test.jsonl.gz [--model FOLDER] [--limit 700]

The data are JSON lines with text1, text2 and score, plain or gzipped.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import torch

from flagai.catalog.packages import find_model
from flagai.catalog.tasks import DEFAULT_EMBEDDING
from flagai.model.predictor.embedder import SentenceEmbedder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_EMBEDDING)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    pairs = read_pairs(options.data)[: options.limit]
    embedder = SentenceEmbedder.from_folder(find_model(options.model))
    begin = time.perf_counter()
    scores = embedder.match([pair["text1"] for pair in pairs], [pair["text2"] for pair in pairs])
    seconds = time.perf_counter() - begin
    correlation = spearman(scores.double(), torch.tensor([pair["score"] for pair in pairs], dtype=torch.double))
    print(
        f"{options.model}: Spearman {correlation:.4f} on {len(pairs)} pairs, {2 * len(pairs) / seconds:.0f} sentences/s"
    )


def read_pairs(path: Path) -> list[dict[str, object]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def spearman(first: torch.Tensor, second: torch.Tensor) -> float:
    """The correlation of ranks; equal values share their mean rank."""
    return float(torch.corrcoef(torch.stack([_ranks(first), _ranks(second)]))[0, 1])


def _ranks(values: torch.Tensor) -> torch.Tensor:
    _, group, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[group]


if __name__ == "__main__":
    main()
