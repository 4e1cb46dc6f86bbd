"""Tensor-parallel plans as data: patterns of our names -> style."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

# style -> leaf -> the dimension along which ranks cut the parameter (absent: every rank holds the whole)
STYLES: Mapping[str, Mapping[str, int]] = {
    "column": {"weight": 0, "bias": 0},  # output features; whole input, cut output
    "row": {"weight": 1},  # input features; cut input, summed output
    "vocab": {"weight": 0, "bias": 0},  # rows of the vocabulary
    "table": {"weight": 1},  # columns of a table, such as T5's bias per head
    "copy": {},
}
Plan = Mapping[str, str]


def shard_dimension(plan: Plan, name: str) -> int | None:
    """The dimension along which a plan cuts a parameter; None if every rank holds it whole.

    Args:
        plan: patterns of module names, without the prefix ``model.`` -> a key of ``STYLES``.
        name: a parameter's name.

    Raises:
        KeyError: the plan does not mention the parameter, which is an error in the plan.
    """
    module, _, leaf = name.removeprefix("model.").rpartition(".")
    for pattern, style in plan.items():
        if fnmatchcase(module, pattern):
            return STYLES[style].get(leaf)
    raise KeyError(f"the plan says nothing about {name}")
