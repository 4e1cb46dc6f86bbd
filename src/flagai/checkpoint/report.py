"""The load report: everything that does not fit, in one message, and how long each phase of a load took."""

import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flagai.errors import LoadError

logger = logging.getLogger(__name__)

_LINES_SHOWN = 12
_LONGEST_LINE = 300
_HEADS_SHOWN = 3
_LAYER = ".\0."
_PROBLEMS = {
    "missing": "missing from the checkpoint",
    "unexpected": "unknown to this model",
    "shape_mismatch": "of the wrong shape",
    "mistyped": "of the wrong type",
}
# What is most likely, by what there is; the first that applies.
_ADVICE = {
    ("missing", "unexpected"): "the weights belong to another class or family: compare config.json with the weights.",
    ("shape_mismatch",): "config.json (or an override, such as class_num) belongs to another size of the model, or a "
    "model-parallel part is absent: compare it with the shapes above.",
    ("mistyped",): "the checkpoint is quantized and the model is not, or the other way round: take the original one, "
    "in float32, float16 or bfloat16.",
    ("missing",): "the file is incomplete, or config.json asks for more layers than it holds.",
    (): "the checkpoint has more layers than config.json asks for, or belongs to another variant.",
}


@dataclass
class LoadReport:
    """What happened to every parameter of the model and every tensor of the checkpoint: lines that name them.

    Args:
        source: the checkpoint, for messages.
        target: the model class, for messages.
        missing: parameters that the checkpoint does not hold.
        unexpected: tensors of the checkpoint that belong to no model of this family.
        mistyped: tensors that hold no floating-point numbers, or should hold none.
        shape_mismatch: tensors of the wrong shape.
        newly_initialized: parameters of a new task head, initialized because the checkpoint cannot know them.
        dropped_modules: optional modules that the checkpoint does not hold, and the model no longer has.
        unused: tensors of the family that this class does not use, such as another head.
        untied: parameters declared as tied for which the checkpoint holds values of their own.
        conflicting: second copies of a tensor that differ from the one that was used.
        bytes_asked: how many bytes of the checkpoint this process asked for; of a sharded model, its shard.
    """

    source: str
    target: str
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mistyped: list[str] = field(default_factory=list)
    shape_mismatch: list[str] = field(default_factory=list)
    newly_initialized: list[str] = field(default_factory=list)
    dropped_modules: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    untied: list[str] = field(default_factory=list)
    conflicting: list[str] = field(default_factory=list)
    bytes_asked: int = 0

    def raise_if_broken(self) -> None:
        """Raise one error with all problems, if there are any.

        Raises:
            LoadError: something is missing, unexpected, or of the wrong shape or type.
        """
        problems = [_section(title, lines) for name, title in _PROBLEMS.items() if (lines := getattr(self, name))]
        if problems:
            head = f"{self.source} does not fit {self.target}; nothing was loaded."
            advice = next(text for names, text in _ADVICE.items() if all(getattr(self, name) for name in names))
            cure = "" if self.unexpected or self.shape_mismatch or self.mistyped else self._heads()
            raise LoadError("\n".join([head, *problems, f"Most likely {advice}{cure}"]))

    def _heads(self) -> str:
        """The cure for a new head of a class of one's own: parameters that are in no layer."""
        names = [line.split(" ")[0] for line in self.missing]
        patterns = sorted({f"{name.partition('.')[0]}.*" for name in names})
        if any(re.search(r"\.\d+\.", name) for name in names) or len(patterns) > _HEADS_SHOWN:
            return ""
        declared = ", ".join(map(repr, patterns)) + ("," if len(patterns) == 1 else "")
        return (
            " If they are a new head, which a pretrained checkpoint cannot have, declare it in the class: "
            f"fresh = ({declared}). It is then randomly initialized, with a warning."
        )


def _section(title: str, names: list[str]) -> str:
    lines = fold(names)
    shown = [f"  {line:.{_LONGEST_LINE}}" for line in lines[:_LINES_SHOWN]]
    if len(lines) > _LINES_SHOWN:
        shown.append(f"  ... and {len(lines) - _LINES_SHOWN} lines more")
    noun = "tensor" if len(names) == 1 else "tensors"
    return "\n".join([f"{len(names)} {noun} {title}:", *shown])


def fold(lines: Iterable[str]) -> list[str]:
    """Join lines that differ only in their layer number: ``blocks.{0-11}.norm1.weight``."""
    groups: dict[str, set[int]] = {}
    for line in lines:
        number = re.search(r"(?<=\.)\d{1,9}(?=\.)", line)
        if number:
            # A line may name the layer twice, in our name and in the file's; later numbers of a name are not layers.
            line = " ".join(word.replace(f".{number[0]}.", _LAYER, 1) for word in line.split(" "))
        groups.setdefault(line, set()).update([int(number[0])] if number else [])
    return [line.replace(_LAYER, f".{_numbers(sorted(numbers))}.") for line, numbers in groups.items()]


def _numbers(values: list[int]) -> str:
    if len(values) < 2:
        return "".join(map(str, values))
    whole = values == list(range(values[0], values[-1] + 1))
    return "{" + (f"{values[0]}-{values[-1]}" if whole else ",".join(map(str, values))) + "}"


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Log at level DEBUG how long the body takes, under a name."""
    start = time.perf_counter()
    yield
    logger.debug("%s: %.1f ms", name, 1e3 * (time.perf_counter() - start))
