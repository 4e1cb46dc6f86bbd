"""The families of models, one record each: ``FAMILY`` in a module of this package, or in one of the user's."""

# name -> the module whose FAMILY is its record, which is imported when it is used
_MODULES = {name: f"{__name__}.{name}" for name in ("glm", "bert", "gpt2", "t5")}


def family_names() -> tuple[str, ...]:
    """The names of all families, as ``ModelConfig.family`` has them."""
    return tuple(_MODULES)


def family_module(name: str) -> str | None:
    """The module that holds a family's record; None if there is no such family."""
    return _MODULES.get(name)


def register_family(name: str, module: str) -> None:
    """Add a family of one's own, for this process; see docs/new-architecture.md.

    Args:
        name: the family's name, as its configuration class has it.
        module: the module that has its record as ``FAMILY``; imported when the family is used.

    Raises:
        ValueError: the name is taken by another module.
    """
    if _MODULES.setdefault(name, module) != module:
        raise ValueError(f"The family {name!r} is that of {_MODULES[name]}. Choose another name.")
