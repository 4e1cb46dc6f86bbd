"""Names that a package offers and imports when they are first used, so that importing the package stays cheap."""

import difflib
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType


def lazy_names(
    package: str, names: Mapping[str, str], renamed: Mapping[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """The ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: its ``__name__``.
        names: module -> names that the package offers from it, separated by spaces. None may be a submodule's.
        renamed: former names -> names.
    """
    homes = {name: module for module, own in names.items() for name in own.split()}
    former = renamed or {}

    def get(name: str) -> object:
        if name in former:
            warnings.warn(f"{package}.{name} is now {package}.{former[name]}.", FutureWarning, stacklevel=2)
            return get(former[name])
        if name not in homes:
            near = difflib.get_close_matches(name, homes, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}", name=name)
        value: object = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def offered() -> list[str]:
        """What completion shows: the names, and the submodules that are imported."""
        own = vars(sys.modules[package]).items()
        inside = {name for name, value in own if isinstance(value, ModuleType) and value.__name__.startswith(package)}
        return sorted({*homes, *inside, *(name for name, _ in own if name.startswith("__"))})

    return get, offered, list(homes)
