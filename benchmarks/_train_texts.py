"""The shapes that are trained, and the texts."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = Path(__file__).parent.parent / (
    "packages/flagai-model-me5-small-bert-zh/src/flagai_model_me5_small_bert_zh/model"
)
SKIPPED, EPOCHS = 10, 2
# Median and spread (of a log-normal distribution) of the lengths, and the longest.
LENGTHS = {"ner": (42, 0.55, 126), "classification": (70, 0.8, 382)}
TAGS = ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")


@dataclass(frozen=True)
class Shape:
    """The model, and how much it reads.

    Args:
        layers: number of layers.
        width: of the hidden states.
        steps: of an epoch.
        tokens: real tokens of a step.
    """

    layers: int
    width: int
    steps: int
    tokens: int

    def settings(self, classes: int) -> dict[str, Any]:
        """BERT's configuration, which both libraries read."""
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "num_attention_heads": self.width // 64,
            "intermediate_size": 4 * self.width,
            "vocab_size": 21128,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "class_num": classes,
            "attention_probs_dropout_prob": 0.0,
        }

    def work(self, lengths: list[int]) -> float:
        """Operations of a training step for texts of these lengths: six per weight and token, and attention's."""
        weights = self.layers * 12 * self.width**2
        return float(sum(6 * weights * n + 12 * self.layers * self.width * n * n for n in lengths))


def texts(task: str, shape: Shape) -> list[dict[str, Any]]:
    """Rows of random characters of the task's lengths."""
    chance = random.Random(1)
    median, spread, longest = LENGTHS[task]
    rows: list[dict[str, Any]] = []
    total = 0
    while total < shape.steps * shape.tokens:
        count = min(longest, max(4, round(median * chance.lognormvariate(0, spread))))
        text = "".join(chr(0x4E00 + chance.randrange(0x1000)) for _ in range(count))
        tags = ["B-LOC", "I-LOC", *["O"] * (count - 2)]
        rows.append({"text": text, "tags": tags} if task == "ner" else {"text": text, "label": chance.randrange(10)})
        total += count + 2
    return rows
