"""Triton's interpreter, which runs kernels on a CPU."""

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def use_interpreter() -> None:
    """Let kernels be interpreted; Triton reads this when it is imported, for its own functions too."""
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        found = version("triton")
    except PackageNotFoundError:
        return
    if found.startswith("3.6."):
        _let_scalars_index()


def _let_scalars_index() -> None:
    """Mend triton-lang/triton#9171: a loop's bound is an array of one element, which numpy 2.4 takes for no index.

    torch 2.11 pins Triton 3.6; Triton 3.7 has the same cure.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched
