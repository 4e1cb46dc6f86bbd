"""The kernels of a step's blocks on a GPU, beside torch."""

import pytest
import torch
from torch import nn

from flagai.kernels.decode import ops as kernels
from flagai.kernels.decode.common import Slots
from flagai.kernels.decode.rows_product import rows_product
from tests.kernels import plain_products

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@torch.inference_mode()
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "pdl"),
    [(1, 768, 2304, True), (1, 16384, 512, False), (1, 104, 70, True), (3, 104, 70, False), (16, 4096, 4096, True)],
)
def test_products_equal_torch(rows: int, inputs: int, outputs: int, pdl: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, device="cuda", dtype=torch.bfloat16)
    norm = nn.LayerNorm(inputs, device="cuda", dtype=torch.bfloat16)
    norm.weight.normal_()
    norm.bias.normal_()
    tokens = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    residual = torch.randn(rows, outputs, device="cuda", dtype=torch.bfloat16)
    for given in ({"norm": norm, "activation_name": "gelu_new"}, {"residual": residual}):
        got = kernels.linear_act_residual(tokens, layer, **given, pdl=pdl).float()  # type: ignore[arg-type]
        wanted = plain_products.linear_act_residual(tokens, layer, **given).float()  # type: ignore[arg-type]
        assert (got - wanted).abs().max() <= 0.02 * (1 + wanted.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 2, 8, 9, 16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), [(1024, 1024), (1024, 4096), (4096, 1024), (768, 3072), (3072, 768)])
def test_products_whose_weights_wait_for_tokens_equal_torch(
    inputs: int, outputs: int, dtype: torch.dtype, count: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, device="cuda", dtype=dtype)
    norm = nn.LayerNorm(inputs, device="cuda", dtype=dtype)
    norm.weight.normal_()
    norm.bias.normal_()
    tokens, residual = (torch.randn(count, size, device="cuda", dtype=dtype) for size in (inputs, outputs))
    for given in ({"norm": norm, "activation_name": "gelu_new"}, {"residual": residual}, {"activation_name": "relu"}):
        got = rows_product(tokens, [layer], **given)  # type: ignore[arg-type]
        wanted = plain_products.linear_act_residual(tokens, layer, **given)  # type: ignore[arg-type]
        assert got is not None
        assert (got - wanted).float().norm() <= 1e-3 * wanted.float().norm()


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("width", [64, 80])
def test_projection_equals_torch(count: int, width: int) -> None:
    torch.manual_seed(0)
    heads, size = 4, 320 if width == 80 else 1024
    layers = [nn.Linear(size, heads * width, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    norm = nn.LayerNorm(size, device="cuda", dtype=torch.bfloat16)
    tokens = torch.randn(count, size, device="cuda", dtype=torch.bfloat16)
    pools = torch.randn(2, 100, heads, width, device="cuda", dtype=torch.bfloat16)
    mapping = torch.randperm(100, device="cuda")[:count]
    ours, theirs = (Slots(*pools.clone(), mapping) for _ in range(2))
    query = kernels.qkv_to_cache(tokens, norm, *layers, ours)
    wanted = plain_products.qkv_to_cache(tokens, norm, *layers, theirs)
    for got, plain in ((query, wanted), (ours.keys, theirs.keys), (ours.values, theirs.values)):
        torch.testing.assert_close(got, plain, atol=0.03, rtol=0.03)
