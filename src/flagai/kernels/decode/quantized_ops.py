"""The products of a decoding step with weights of 8 and 4 bits; what they compute: :mod:`.decoding`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from flagai.kernels.decode.common import ACTIVATIONS, MOST_ROWS, Slots, layer_norm, within_limits
from flagai.kernels.hardware import has_triton_half, next_power_of_2, pdl_options
from flagai.model.layer.quantized_linear import Quantized, quantized_linear


@dataclass(frozen=True)
class KernelConfig:
    """Which kernel computes a linear layer, and its tiling; see :mod:`flagai.kernels.triton.quantized`.

    Args:
        kind: "gemv", "grouped_gemm" or "gemm".
        rows: rows of the matrix that a program takes.
        columns: how much of them it takes at once: units of 16 bytes, words, or (int8 tiles) numbers.
        warps: warps of a program.
        stages: how many tiles are under config at once.
    """

    kind: str
    rows: int
    columns: int
    warps: int
    stages: int = 1


# (bits, most tokens, outputs, inputs): the fastest configurations on one H100 for the sizes of GLM-10b, found by
# benchmarks/_decode_quantized.py.
TUNED: dict[tuple[int, int, int, int], KernelConfig] = {
    (4, 1, 12288, 4096): KernelConfig("gemv", 4, 128, 2),
    (4, 1, 4096, 4096): KernelConfig("gemv", 8, 128, 2),
    (4, 1, 16384, 4096): KernelConfig("gemv", 4, 128, 2),
    (4, 1, 4096, 16384): KernelConfig("gemv", 4, 512, 4),
    # ChatGLM2-6B's; on one H200.
    (4, 1, 27392, 4096): KernelConfig("gemv", 4, 128, 2),
    (4, 1, 4096, 13696): KernelConfig("gemv", 4, 512, 4),
    (4, 8, 12288, 4096): KernelConfig("grouped_gemm", 16, 512, 4),
    (4, 8, 4096, 4096): KernelConfig("grouped_gemm", 16, 512, 4),
    (4, 8, 16384, 4096): KernelConfig("grouped_gemm", 16, 512, 4),
    (4, 8, 4096, 16384): KernelConfig("grouped_gemm", 16, 256, 4),
    (8, 1, 12288, 4096): KernelConfig("gemv", 8, 256, 8),
    (8, 1, 4096, 4096): KernelConfig("gemv", 8, 256, 8),
    (8, 1, 16384, 4096): KernelConfig("gemv", 8, 256, 8),
    (8, 1, 4096, 16384): KernelConfig("gemv", 2, 1024, 8),
    (8, 8, 12288, 4096): KernelConfig("gemm", 32, 256, 4, 4),
    (8, 8, 4096, 4096): KernelConfig("gemm", 32, 256, 4, 4),
    (8, 8, 16384, 4096): KernelConfig("gemm", 32, 256, 4, 4),
    (8, 8, 4096, 16384): KernelConfig("gemm", 32, 128, 4, 5),
}
# Numbers of tokens for which configurations are chosen.
_STAGES = (1, 8, MOST_ROWS)


def suits(layer: Quantized, hidden: torch.Tensor) -> bool:
    """Whether the kernels compute a product."""
    return (
        0 < hidden.numel() // layer.in_features <= MOST_ROWS
        and has_triton_half(hidden.device, hidden.dtype)
        and within_limits(layer)
        and not (torch.is_grad_enabled() and hidden.requires_grad)
    )


@quantized_linear.faster(suits)
def quantized_linear_triton(layer: Quantized, hidden: torch.Tensor) -> torch.Tensor:
    """A product of few tokens, [..., in] -> [..., out]."""
    tokens = hidden.reshape(-1, layer.in_features)
    return quantized_linear_act_residual(tokens, layer).view(*hidden.shape[:-1], layer.out_features)


def kernel_config(layer: Quantized, tokens: int, matrices: int = 1) -> KernelConfig:
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
        return KernelConfig("gemv", rows, units, min(8, max(1, units // 32)))
    if layer.bits == 4 and layer.group == 128 and layer.in_features >= 1024:
        return KernelConfig("grouped_gemm", 16, 128 if layer.in_features < 4096 else 512, 8)
    return KernelConfig("gemm", 32, 128 if layer.bits == 8 else 32, 4, 4)


def quantized_linear_act_residual(
    tokens: torch.Tensor,
    layer: Quantized,
    *,
    norm: nn.LayerNorm | None = None,
    activation_name: str | None = None,
    residual: torch.Tensor | None = None,
    config: KernelConfig | None = None,
    pdl: bool = True,
) -> torch.Tensor:
    """See :func:`flagai.kernels.decode.ops.linear_act_residual`.

    Args:
        tokens: contiguous, [M, K].
        layer: the layer, [N, K].
        norm: applied to the tokens first.
        activation_name: applied to the result.
        residual: added in the end, [M, N].
        config: how to compute it.
        pdl: whether to start before the previous kernel has ended (programmatic dependent launch), where possible.

    Shape:
        -> [M, N]
    """
    from flagai.kernels.triton.quantized import quantized_linear_act_residual_kernel

    count = len(tokens)
    config = config or kernel_config(layer, count)
    tokens = tokens if norm is None else layer_norm(tokens, norm, pdl)
    out = tokens.new_empty(count, layer.out_features)
    quantized_linear_act_residual_kernel[(-(-layer.out_features // config.rows),)](
        tokens,
        _weights(layer, config),
        layer.weight_scale,
        tokens if layer.bias is None else layer.bias,
        tokens if residual is None else residual,
        out,
        layer.out_features,
        ACTIVATION="none" if activation_name is None else ACTIVATIONS[activation_name],
        BIAS=layer.bias is not None,
        RESIDUAL=residual is not None,
        **_common(layer, count, config),
        **_beginning(tokens.device, config, pdl),
    )
    return out


def quantized_qkv_to_cache(
    tokens: torch.Tensor,
    norm: nn.LayerNorm | None,
    layers: Sequence[Quantized],
    slots: Slots,
    *,
    config: KernelConfig | None = None,
    pdl: bool = True,
) -> torch.Tensor:
    """See :func:`flagai.kernels.decode.ops.qkv_to_cache`.

    Args:
        tokens: contiguous, [M, K].
        norm: applied to the tokens first; None if they are normalised.
        layers: for queries, keys and values, [N, K].
        slots: where keys and values go.
        config: how to compute it.
        pdl: whether to start before the previous kernel has ended (programmatic dependent launch), where possible.

    Shape:
        -> [M, N]
    """
    from flagai.kernels.triton.quantized import quantized_qkv_to_cache_kernel

    count, layer = len(tokens), layers[0]
    config = config or kernel_config(layer, count, matrices=3)
    tokens = tokens if norm is None else layer_norm(tokens, norm, pdl)
    out = tokens.new_empty(count, layer.out_features)
    quantized_qkv_to_cache_kernel[(3 * -(-layer.out_features // config.rows),)](
        tokens,
        *(_weights(each, config) for each in layers),
        *(each.weight_scale for each in layers),
        *(each.bias for each in layers),
        out,
        slots.keys,
        slots.values,
        slots.slot_mapping,
        layer.out_features,
        **_common(layer, count, config),
        **_beginning(tokens.device, config, pdl),
    )
    return out


@cache
def _compiled() -> bool:
    """Whether kernels are compiled, not interpreted: only then there is assembly."""
    from triton.runtime.jit import JITFunction

    from flagai.kernels.triton.quantized import quantized_linear_act_residual_kernel

    return isinstance(quantized_linear_act_residual_kernel, JITFunction)


def _beginning(device: torch.device, config: KernelConfig, pdl: bool) -> dict[str, Any]:
    """How programs begin. With tiles they would only take the room of those that they wait for."""
    return pdl_options(device, pdl and config.kind != "gemm")


def _weights(layer: Quantized, config: KernelConfig) -> torch.Tensor:
    """The matrix as the kernel reads it: words, or bytes."""
    return layer.weight if config.kind == "gemm" else layer.weight.view(torch.int32)


def tile_options(layer: Quantized, count: int, config: KernelConfig) -> dict[str, Any]:
    """Constants of a kernel that holds rows of a layer's matrix."""
    return {
        "K": layer.in_features,
        "G": layer.group,
        "BITS": layer.bits,
        "M": count,
        "BN": config.rows,
        "BK": config.columns,
        "ASM": _compiled(),
        "num_warps": config.warps,
    }


def _common(layer: Quantized, count: int, config: KernelConfig) -> dict[str, Any]:
    padded = 8 if config.kind == "grouped_gemm" and count <= 8 else 16
    return tile_options(layer, count, config) | {"MP": padded, "KIND": config.kind, "num_stages": config.stages}
