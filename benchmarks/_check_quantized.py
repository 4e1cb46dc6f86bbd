"""Whether products with weights of 8 and 4 bits are as near to the exact result as torch's in bfloat16."""

from typing import Any

import torch
from torch import nn

from benchmarks._decode_common import HALF
from benchmarks._decode_small import layer
from flagai.kernels.decode.common import Slots
from flagai.kernels.decode.quantized_ops import (
    KernelConfig,
    quantized_linear_act_residual,
    quantized_qkv_to_cache,
)
from flagai.model.layer.quantized_linear import QuantizedLinear
from tests.kernels import plain_products

# Outputs, inputs, tokens, whether normalised, how.
CHECKS = {
    4: (
        (2304, 1024, 1, True, KernelConfig("gemv", 8, 32, 1)), (70, 160, 1, False, KernelConfig("gemv", 8, 8, 1)),
        (512, 16384, 1, False, KernelConfig("gemv", 4, 512, 8)), (4096, 4096, 1, True, KernelConfig("gemv", 8, 128, 4)),
        (2304, 1024, 4, True, KernelConfig("grouped_gemm", 16, 128, 8)),
        (512, 16384, 16, False, KernelConfig("grouped_gemm", 16, 512, 8)),
        (70, 384, 5, True, KernelConfig("grouped_gemm", 16, 64, 4)),
        (4096, 4096, 1, False, KernelConfig("grouped_gemm", 16, 512, 8)),
        (4096, 4096, 4, True, KernelConfig("gemm", 32, 64, 4, 3)),
        (70, 160, 9, True, KernelConfig("gemm", 32, 32, 4, 3)),
    ),
    8: (
        (2304, 1024, 1, True, KernelConfig("gemv", 8, 64, 2)), (70, 160, 1, False, KernelConfig("gemv", 8, 16, 1)),
        (512, 16384, 1, False, KernelConfig("gemv", 4, 1024, 8)),
        (4096, 4096, 4, True, KernelConfig("gemm", 32, 128, 4, 5)),
        (70, 160, 9, True, KernelConfig("gemm", 32, 128, 4, 3)),
    ),
}  # fmt: skip


@torch.inference_mode()
def check(task: tuple[int, tuple[Any, ...]]) -> str:
    """The largest difference from the exact result, in shares of its largest number, beside torch's in bfloat16."""
    bits, (outputs, inputs, count, normed, way) = task
    label = f"{bits} bits {outputs}x{inputs} {count} tokens norm {normed} {way}"
    try:
        made = layer(outputs, inputs, bits)
        exact, plain = (dequantized(made, dtype) for dtype in (torch.float64, HALF))
        x = torch.randn(count, inputs, device="cuda", dtype=HALF) + 0.5
        extra: dict[str, Any] = {"residual": torch.randn(count, outputs, device="cuda", dtype=HALF)}
        if normed:
            norm = nn.LayerNorm(inputs, device="cuda", dtype=HALF)
            norm.weight.data.normal_(1, 0.3)
            norm.bias.data.normal_(0, 0.3)
            extra = {"norm": norm, "activation_name": "gelu_new"}
        wanted = plain_products.linear_act_residual(x.double(), exact, **_doubled(extra))
        torchs = plain_products.linear_act_residual(x, plain, **extra)
        got = quantized_linear_act_residual(x, made, **extra, config=way)
        ours, theirs = (float((each.double() - wanted).abs().max() / wanted.abs().max()) for each in (got, torchs))
    except Exception as error:  # noqa: BLE001 - one failure must not end the run
        return f"FAILED {label}: {error!r}"[:300]
    return f"{'good' if ours < 2 * theirs + 2e-3 else 'BAD'} {label}: {ours:.1e} {theirs:.1e}"


@torch.inference_mode()
def check_projections(bits: int) -> str:
    return f"projection, {bits} bits: {[_check_projection(bits, lanes) for lanes in (1, 4)]}"


def dequantized(made: QuantizedLinear, dtype: torch.dtype) -> nn.Linear:
    plain = nn.Linear(made.in_features, made.out_features, device="cuda", dtype=dtype)
    plain.weight.data = made.dequantized(torch.float32).to(dtype)
    plain.bias.data = made.bias.data.to(dtype)  # type: ignore[union-attr]
    return plain


def _doubled(extra: dict[str, Any]) -> dict[str, Any]:
    found = dict(extra)
    if "residual" in found:
        found["residual"] = found["residual"].double()
    if "norm" in found:
        norm = nn.LayerNorm(len(found["norm"].weight), device="cuda", dtype=torch.float64)
        norm.load_state_dict({name: value.double() for name, value in found["norm"].state_dict().items()})
        found["norm"] = norm
    return found


@torch.inference_mode()
def _check_projection(bits: int, lanes: int) -> list[float]:
    torch.manual_seed(0)
    layers = tuple(layer(320, 320, bits, seed) for seed in range(3))
    norm = nn.LayerNorm(320, device="cuda", dtype=HALF)
    tokens = torch.randn(2 * lanes, 320, device="cuda", dtype=HALF)
    pools = torch.randn(2, 96, 5, 64, device="cuda", dtype=HALF)
    mapping = torch.randperm(96, device="cuda")[: 2 * lanes]
    ours, theirs = (Slots(*pools.clone(), mapping) for _ in range(2))
    query = quantized_qkv_to_cache(tokens, norm, layers, ours)  # type: ignore[arg-type]
    wanted = plain_products.qkv_to_cache(tokens, norm, *(dequantized(each, HALF) for each in layers), theirs)
    pairs = ((query, wanted), (ours.keys, theirs.keys), (ours.values, theirs.values))
    return [round(float((got - plain).abs().max()), 4) for got, plain in pairs]
