"""The kernels for weights of 8 and 4 bits give what torch gives with dequantized ones, in whatever pieces."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from flagai.kernels.decode import quantized_ops as module
from flagai.kernels.decode.common import Slots
from flagai.kernels.decode.quantized_ops import KernelConfig, quantized_linear_act_residual, quantized_qkv_to_cache
from flagai.model.layer.quantized_linear import QuantizedLinear
from tests.kernels import plain_products
from tests.kernels.conftest import DEVICE

# The interpreter multiplies no matrices of bfloat16; float16 and float32 go the same way, but for some assembly.
TYPES = [torch.bfloat16, torch.float16] if DEVICE == "cuda" else [torch.float16]
# Inputs and outputs: groups of 32 and 128; units that are no power of two; rows left over.
SIZES = [(160, 17), (256, 24)]


@pytest.fixture(autouse=True)
def there(device: torch.device) -> Iterator[None]:
    torch.manual_seed(0)
    with device, torch.inference_mode():
        yield


def layer(inputs: int, outputs: int, bits: int, dtype: torch.dtype) -> QuantizedLinear:
    return QuantizedLinear.of(nn.Linear(inputs, outputs), bits).to(dtype)


def dequantized(made: QuantizedLinear) -> nn.Linear:
    plain = nn.Linear(made.in_features, made.out_features)
    plain.weight, plain.bias = nn.Parameter(made.dequantized(torch.float32)), nn.Parameter(made.bias.float())
    return plain


def norm(size: int, dtype: torch.dtype) -> nn.LayerNorm:
    made = nn.LayerNorm(size).to(dtype)
    made.weight.data.normal_(1, 0.3)
    made.bias.data.normal_()
    return made


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    tolerance = {torch.float32: 1e-3, torch.float16: 4e-3, torch.bfloat16: 3e-2}[got.dtype]
    torch.testing.assert_close(got.float(), wanted, atol=tolerance, rtol=tolerance)


def ways(made: QuantizedLinear, count: int) -> list[KernelConfig]:
    """Every way of computing, in small pieces."""
    units = made.in_features * made.bits // 128
    found = [KernelConfig("gemm", 16, 16 * made.bits // 4, 4, 2)]
    if count <= 3:
        found.append(KernelConfig("gemv", 8, 1 << (units - 1).bit_length(), 1))
    if made.group == 128 and made.bits == 4:
        found += [KernelConfig("grouped_gemm", 16, 16 * groups, 1) for groups in (1, 4)]
    return found


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("bits", "inputs", "outputs", "count"),
    [
        pytest.param(bits, *sizes, count, marks=() if (bits // 4 + inner + outer) % 2 else pytest.mark.slow)
        for bits in (8, 4)
        for inner, sizes in enumerate(SIZES)
        for outer, count in enumerate((1, 3, 9))
    ],
)
def test_products(bits: int, inputs: int, outputs: int, dtype: torch.dtype, count: int) -> None:
    made, tokens = layer(inputs, outputs, bits, dtype), (torch.randn(count, inputs) + 0.5).to(dtype)
    plain, normed, residual = dequantized(made), norm(inputs, dtype), torch.randn(count, outputs).to(dtype)
    exact = nn.LayerNorm(inputs)
    exact.load_state_dict({name: value.float() for name, value in normed.state_dict().items()})
    added = plain_products.linear_act_residual(tokens.float(), plain, residual=residual.float())
    active = plain_products.linear_act_residual(tokens.float(), plain, norm=exact, activation_name="gelu_new")
    bare = tokens.float() @ plain.weight.T
    for way in ways(made, count):
        close(quantized_linear_act_residual(tokens, made, residual=residual, config=way), added)
        close(quantized_linear_act_residual(tokens, made, norm=normed, activation_name="gelu_new", config=way), active)
    made.bias = None
    close(quantized_linear_act_residual(tokens, made, config=ways(made, count)[-1]), bare)


@pytest.mark.parametrize(
    ("bits", "count"),
    [(8, 1), (4, 4), pytest.param(8, 4, marks=pytest.mark.slow), pytest.param(4, 1, marks=pytest.mark.slow)],
)
def test_projection(bits: int, count: int) -> None:
    dtype, heads, width, size = TYPES[0], 3, 16, 256
    layers = [layer(size, heads * width, bits, dtype) for _ in range(3)]
    tokens, normed = torch.randn(count, size).to(dtype), norm(size, dtype)
    exact = nn.LayerNorm(size)
    exact.load_state_dict({name: value.float() for name, value in normed.state_dict().items()})
    pools, mapping = torch.randn(2, 40, heads, width).to(dtype), torch.randperm(40)[:count]
    theirs = Slots(*pools.float(), mapping)
    wanted = plain_products.qkv_to_cache(tokens.float(), exact, *map(dequantized, layers), theirs)
    for way in ways(layers[0], count + 2):
        ours = Slots(*pools.clone(), mapping)
        found = quantized_qkv_to_cache(tokens, normed, layers, ours, config=way)
        for got, plain in ((found, wanted), (ours.keys, theirs.keys), (ours.values, theirs.values)):
            close(got, plain)


@pytest.mark.parametrize("tokens", [1, 2, 16])
@pytest.mark.parametrize("inputs", [96, 768, 4096, 16384])
@pytest.mark.parametrize("bits", [8, 4])
def test_every_size_has_a_way(bits: int, inputs: int, tokens: int) -> None:
    with torch.device("meta"):
        made = QuantizedLinear(inputs, 4096, bits, bias=True, dtype=torch.float16)
    found = module.kernel_config(made, tokens)
    if found.kind == "gemv":
        assert found.columns * 128 // bits >= inputs  # whole rows
    if found.kind == "grouped_gemm":
        assert made.group == 128
        assert found.columns // 16 >= found.warps
    assert all(size & (size - 1) == 0 for size in (found.rows, found.columns, found.warps))
