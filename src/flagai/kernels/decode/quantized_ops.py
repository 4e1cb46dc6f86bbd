"""The products of a decoding step with weights of eight and four bits; what they compute: :mod:`.decoding`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from flagai.kernels.decode.ops import ACTIVATIONS, MOST_ROWS, Slots, _normed, fits
from flagai.kernels.hardware import has_triton_half, next_power_of_2, pdl_options
from flagai.model.layer.quantized_linear import Quantized, quantized_linear


@dataclass(frozen=True)
class Way:
    """How a product is computed, and cut into programs; the ways are those of :mod:`~flagai.kernels.triton.quantized`.

    Args:
        kind: "words", "groups" or "tiles".
        rows: rows of the matrix that a program takes.
        columns: how much of them it takes at once: units of 16 bytes, words, or (int8 tiles) numbers.
        warps: warps of a program.
        stages: how many tiles are under way at once.
    """

    kind: str
    rows: int
    columns: int
    warps: int
    stages: int = 1


# (bits, tokens are at most, outputs, inputs): the ways that were best on one H100, for the sizes of GLM-10b; by
# benchmarks/_decode_quantized.py.
TUNED: dict[tuple[int, int, int, int], Way] = {
    (4, 1, 12288, 4096): Way("words", 4, 128, 2),
    (4, 1, 4096, 4096): Way("words", 8, 128, 2),
    (4, 1, 16384, 4096): Way("words", 4, 128, 2),
    (4, 1, 4096, 16384): Way("words", 4, 512, 4),
    (4, 8, 12288, 4096): Way("groups", 16, 512, 4),
    (4, 8, 4096, 4096): Way("groups", 16, 512, 4),
    (4, 8, 16384, 4096): Way("groups", 16, 512, 4),
    (4, 8, 4096, 16384): Way("groups", 16, 256, 4),
    (8, 1, 12288, 4096): Way("words", 8, 256, 8),
    (8, 1, 4096, 4096): Way("words", 8, 256, 8),
    (8, 1, 16384, 4096): Way("words", 8, 256, 8),
    (8, 1, 4096, 16384): Way("words", 2, 1024, 8),
    (8, 8, 12288, 4096): Way("tiles", 32, 256, 4, 4),
    (8, 8, 4096, 4096): Way("tiles", 32, 256, 4, 4),
    (8, 8, 16384, 4096): Way("tiles", 32, 256, 4, 4),
    (8, 8, 4096, 16384): Way("tiles", 32, 128, 4, 5),
}
# Numbers of tokens for which ways are chosen.
_STAGES = (1, 8, MOST_ROWS)


def suits(layer: Quantized, hidden: torch.Tensor) -> bool:
    """Whether the kernels compute a product."""
    return (
        0 < hidden.numel() // layer.in_features <= MOST_ROWS
        and has_triton_half(hidden.device, hidden.dtype)
        and fits(layer)
        and not (torch.is_grad_enabled() and hidden.requires_grad)
    )


@quantized_linear.faster(suits)
def quantized_linear_triton(layer: Quantized, hidden: torch.Tensor) -> torch.Tensor:
    """A product of few tokens, [..., in] -> [..., out]."""
    tokens = hidden.reshape(-1, layer.in_features)
    return quantized_linear_act_residual(tokens, layer).view(*hidden.shape[:-1], layer.out_features)


def way_of(layer: Quantized, tokens: int, matrices: int = 1) -> Way:
    """How a product is computed.

    Args:
        layer: the layer.
        tokens: how many tokens it meets.
        matrices: how many such layers are computed at once.
    """
    most = next(most for most in _STAGES if tokens <= most)
    outputs = layer.out_features * matrices
    tuned = TUNED.get((layer.bits, most, outputs, layer.in_features))
    if tuned is not None:
        return tuned
    if tokens == 1:
        units = next_power_of_2(layer.in_features * layer.bits // 128)
        rows = max(1, min(8, 2048 // units))
        while rows > 1 and outputs // rows < 256:
            rows //= 2
        return Way("words", rows, units, min(8, max(1, units // 32)))
    if layer.bits == 4 and layer.group == 128 and layer.in_features >= 1024:
        return Way("groups", 16, 128 if layer.in_features < 4096 else 512, 8)
    return Way("tiles", 32, 128 if layer.bits == 8 else 32, 4, 4)


def quantized_linear_act_residual(
    tokens: torch.Tensor,
    layer: Quantized,
    *,
    norm: nn.LayerNorm | None = None,
    activation_name: str | None = None,
    residual: torch.Tensor | None = None,
    way: Way | None = None,
    early: bool = True,
) -> torch.Tensor:
    """See :func:`flagai.kernels.decode.ops.product`.

    Args:
        tokens: contiguous, [M, K].
        layer: the layer, [N, K].
        norm: applied to the tokens first.
        activation_name: applied to the result.
        residual: added in the end, [M, N].
        way: how to compute it.
        early: whether to start before the kernel before has ended, where that is possible.

    Shape:
        -> [M, N]
    """
    from flagai.kernels.triton.quantized import quantized_product_kernel

    count = len(tokens)
    way = way or way_of(layer, count)
    tokens = tokens if norm is None else _normed(tokens, norm, early)
    out = tokens.new_empty(count, layer.out_features)
    quantized_product_kernel[(-(-layer.out_features // way.rows),)](
        tokens,
        _numbers(layer, way),
        layer.weight_scale,
        tokens if layer.bias is None else layer.bias,
        tokens if residual is None else residual,
        out,
        layer.out_features,
        ACTIVATION="none" if activation_name is None else ACTIVATIONS[activation_name],
        BIAS=layer.bias is not None,
        RESIDUAL=residual is not None,
        **_common(layer, count, way),
        **_beginning(tokens.device, way, early),
    )
    return out


def quantized_project(
    tokens: torch.Tensor,
    norm: nn.LayerNorm | None,
    layers: Sequence[Quantized],
    slots: Slots,
    *,
    way: Way | None = None,
    early: bool = True,
) -> torch.Tensor:
    """See :func:`flagai.kernels.decode.ops.project`.

    Args:
        tokens: contiguous, [M, K], where token b * W + w is lane w of text b.
        norm: applied to the tokens first; None if they are normalised.
        layers: for queries, keys and values, [N, K].
        slots: the cache.
        way: how to compute it.
        early: whether to start before the kernel before has ended, where that is possible.

    Shape:
        -> [M, N]
    """
    from flagai.kernels.triton.quantized import quantized_projection_kernel

    count, layer = len(tokens), layers[0]
    way = way or way_of(layer, count, matrices=3)
    tokens = tokens if norm is None else _normed(tokens, norm, early)
    out = tokens.new_empty(count, layer.out_features)
    quantized_projection_kernel[(3 * -(-layer.out_features // way.rows),)](
        tokens,
        *(_numbers(each, way) for each in layers),
        *(each.weight_scale for each in layers),
        *(each.bias for each in layers),
        out,
        slots.keys,
        slots.values,
        slots.write_index,
        layer.out_features,
        slots.keys.shape[2],
        LANES=len(slots.write_index),
        D=slots.keys.shape[3],
        **_common(layer, count, way),
        **_beginning(tokens.device, way, early),
    )
    return out


@cache
def _compiled() -> bool:
    """Whether kernels are compiled, not interpreted: only then there is assembly."""
    from triton.runtime.jit import JITFunction

    from flagai.kernels.triton.quantized import quantized_product_kernel

    return isinstance(quantized_product_kernel, JITFunction)


def _beginning(device: torch.device, way: Way, early: bool) -> dict[str, Any]:
    """How programs begin. With tiles they would only take the room of those that they wait for."""
    return pdl_options(device, early and way.kind != "tiles")


def _numbers(layer: Quantized, way: Way) -> torch.Tensor:
    """The matrix as the kernel reads it: words, or bytes."""
    return layer.weight if way.kind == "tiles" else layer.weight.view(torch.int32)


def _common(layer: Quantized, count: int, way: Way) -> dict[str, Any]:
    return {
        "K": layer.in_features,
        "G": layer.group,
        "BITS": layer.bits,
        "M": count,
        "MP": 8 if way.kind == "groups" and count <= 8 else 16,
        "BN": way.rows,
        "BK": way.columns,
        "KIND": way.kind,
        "ASM": _compiled(),
        "num_warps": way.warps,
        "num_stages": way.stages,
    }
