"""Activation functions by the names that configurations use."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from flagai.errors import ConfigError

Activation = Callable[[torch.Tensor], torch.Tensor]
_tanh_gelu: Activation = partial(F.gelu, approximate="tanh")
# "gelu" is exact (erf); the tanh form differs by up to 3e-3 in a model's outputs.
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Activation:
    """Look up an activation function.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in _ACTIVATIONS:
        raise ConfigError(
            f"There is no activation {name!r:.200}, named by hidden_act, activation_function, dense_act_fn or "
            f"feed_forward_proj in config.json. Known: {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]
