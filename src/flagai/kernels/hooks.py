"""Whether somebody listens to a module: what is computed without calling it would go past them."""

from torch import nn


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks before or after its ``forward``, or one of its own (as Accelerate gives it).

    Those inside of it are not asked for.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
