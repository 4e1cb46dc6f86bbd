"""Tensor-parallel plans as data: patterns of our names -> style."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

# style -> leaf -> the dimension along which ranks cut the parameter (absent: every rank holds the whole)
STYLES: Mapping[str, Mapping[str, int]] = {
    "column": {"weight": 0, "bias": 0},  # output features; whole input, cut output
    # Keys or values of grouped heads: as "column", but ranks that share a group hold it all the same.
    "group": {"weight": 0, "bias": 0},
    "row": {"weight": 1},  # input features; cut input, summed output
    "vocab": {"weight": 0, "bias": 0},  # rows of the vocabulary
    "table": {"weight": 1},  # columns of a table, such as T5's bias per head
    "copy": {},
}
Plan = Mapping[str, str]
# A transformer block is cut between its heads and between its inner features, whatever the family.
_BLOCK: Plan = {
    "attention.[qkv]": "column",
    "attention.out": "row",
    "cross_attention.[qkv]": "column",
    "cross_attention.out": "row",
    "feed_forward.up": "column",
    "feed_forward.gate": "column",
    "feed_forward.value": "column",
    "feed_forward.down": "row",
    "norm*": "copy",
}


def blocks(stack: str = "blocks") -> Plan:
    """The plan of a stack of blocks.

    Args:
        stack: the stack's name, or a pattern of names.
    """
    return {f"{stack}.*.{module}": style for module, style in _BLOCK.items()}


def style(plan: Plan, module: str) -> str:
    """How a plan cuts a module: a key of ``STYLES``.

    Args:
        plan: patterns of module names, without the prefix ``model.`` -> a key of ``STYLES``.
        module: the name of a module with parameters.

    Raises:
        KeyError: the plan does not mention the module, which is an error in the plan.
    """
    module = module.removeprefix("model.")
    for pattern, found in plan.items():
        if fnmatchcase(module, pattern):
            return found
    raise KeyError(f"the plan says nothing about {module}")


def shard_dimension(plan: Plan, name: str) -> int | None:
    """The dimension along which a plan cuts a parameter; None if every rank holds it whole.

    Args:
        plan: see :func:`style`.
        name: a parameter's name.

    Raises:
        KeyError: the plan does not mention the parameter, which is an error in the plan.
    """
    module, _, leaf = name.rpartition(".")
    return STYLES[style(plan, module)].get(leaf)
