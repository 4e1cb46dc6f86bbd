"""The CUDA kernel of products with few tokens, on a CPU: its source, with other headers for lanes and tensor cores."""

import ctypes
import shutil
import subprocess
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flagai.kernels import cuda
from flagai.kernels.decode.common import Slots
from flagai.kernels.decode.rows_product import ProductPlan
from tests.kernels import plain_products

HERE, SOURCE = Path(__file__).parent / "cuda_on_cpu", Path(cuda.__file__).parent
HALF = torch.bfloat16
_NUMBERS = count()


@pytest.fixture
def build(tmp_path: Path) -> Any:
    """Compiles the kernel with options; the result is called with its arguments."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    for file in (SOURCE / "rows_product/product.cu", SOURCE / "activation.cuh", *HERE.iterdir()):
        shutil.copy(file, tmp_path)

    def compiled(**options: int) -> Any:
        library = tmp_path / f"kernel{next(_NUMBERS)}.so"
        flags = [f"-D{name}={value}" for name, value in options.items()]
        command = [
            "g++",
            "-std=c++20",
            "-O1",
            "-w",
            "-shared",
            "-fPIC",
            "-pthread",
            *flags,
            "kernel.cpp",
            "-o",
            str(library),
        ]
        subprocess.run(command, cwd=tmp_path, check=True)
        return ctypes.CDLL(str(library)).launch

    return compiled


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else value


def _layers(inputs: int, outputs: int, number: int) -> list[nn.Linear]:
    return [nn.Linear(inputs, outputs, dtype=HALF) for _ in range(number)]


def _norm(size: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(size, dtype=HALF)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def _close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found.float() - wanted.float()).norm() <= 2e-3 * wanted.float().norm()


@torch.inference_mode()
@pytest.mark.parametrize(("tokens", "plan"), [(1, ProductPlan(4, 8)), (8, ProductPlan(2, 4)), (13, ProductPlan(1, 16))])
def test_a_product_with_what_stands_around_it(build: Any, tokens: int, plan: ProductPlan) -> None:
    torch.manual_seed(0)
    (layer,), norm = _layers(512, 64, 1), _norm(512)
    x, residual = torch.randn(tokens, 512, dtype=HALF) + 0.5, torch.randn(tokens, 64, dtype=HALF)
    common = {"K": 512, "N": 64, "MATRICES": 1, "HALVES": 1 + (tokens > 8), "TILES": plan.tiles, "WARPS": plan.warps}
    for given, activation in (({"norm": norm, "activation_name": "relu"}, 2), ({"residual": residual}, -1)):
        launch = build(
            **common, NORM=int("norm" in given), ACTIVATION=activation, RESIDUAL=int("residual" in given), BFLOAT=1
        )
        out = torch.full((tokens, 64), torch.nan, dtype=HALF)
        matrices, biases, nothing = [layer.weight] * 3, [layer.bias] * 3, [None] * 3
        values = [x, *matrices, *biases, norm.weight, norm.bias, norm.eps, residual, out, *nothing, tokens]
        launch(64 // (8 * plan.tiles), *map(_argument, values))
        _close(out, plain_products.linear_act_residual(x, layer, **given))  # type: ignore[arg-type]


@torch.inference_mode()
def test_keys_and_values_go_to_their_slots(build: Any) -> None:
    torch.manual_seed(0)
    layers, norm, tokens = _layers(256, 64, 3), _norm(256), 11
    x, mapping = torch.randn(tokens, 256, dtype=HALF), torch.randperm(50)[:tokens]
    ours, theirs = (Slots(*torch.zeros(2, 50, 1, 64, dtype=HALF), mapping) for _ in range(2))
    sizes = {"K": 256, "N": 64, "MATRICES": 3, "HALVES": 2, "TILES": 2, "WARPS": 4}
    launch = build(**sizes, NORM=1, ACTIVATION=-1, RESIDUAL=0, BFLOAT=1)
    out = torch.full((tokens, 64), torch.nan, dtype=HALF)
    matrices, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    pools = [ours.keys, ours.values, mapping]
    values = [x, *matrices, *biases, norm.weight, norm.bias, norm.eps, None, out, *pools, tokens]
    launch(3 * 64 // 16, *map(_argument, values))
    _close(out, plain_products.qkv_to_cache(x, norm, *layers, theirs))
    _close(ours.keys, theirs.keys)
    _close(ours.values, theirs.values)


@pytest.mark.parametrize(
    ("outputs", "matrices", "size", "tokens", "plan"),
    [
        (1024, 3, 1024, 1, ProductPlan(4, 8)),  # GLM-large: q, k and v
        (1024, 1, 1024, 16, ProductPlan(2, 8)),
        (4096, 1, 1024, 8, ProductPlan(8, 16)),
        (1024, 1, 4096, 16, ProductPlan(2, 16)),
        (768, 1, 3072, 4, ProductPlan(2, 16)),  # GPT-2 124M
        (4096, 3, 4096, 1, None),  # GLM-10b: one token meets whole rows
        (4096, 3, 4096, 4, ProductPlan(2, 16)),
        (4096, 1, 16384, 4, None),  # does not fit into registers
        (70, 1, 104, 2, None),
    ],
)
def test_how_products_are_cut(outputs: int, matrices: int, size: int, tokens: int, plan: ProductPlan | None) -> None:
    assert ProductPlan.of(outputs, matrices, size, tokens) == plan
