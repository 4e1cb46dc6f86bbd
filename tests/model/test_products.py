"""Products of few rows equal torch's, however the matrix lies in memory and however many cores there are."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels.cpu import linear as products
from flagai.kernels.cpu.linear import SkinnyLinear, linear

LAYOUTS: dict[str, Callable[[int, int], torch.Tensor]] = {
    "rows": lambda out, size: torch.randn(out, size),
    "turned": lambda out, size: torch.randn(size, out).t(),
    "turned window": lambda out, size: torch.randn(size, 3 * out)[:, out : 2 * out].t(),
    "window of rows": lambda out, size: torch.randn(out + 5, size)[5:],
    "window of columns": lambda out, size: torch.randn(out, 2 * size)[:, size:],
}


@pytest.fixture(params=[1, 3, pytest.param(2, marks=pytest.mark.slow)])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@torch.inference_mode()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(512, 384), (517, 385), (70, 1920)])
@pytest.mark.parametrize("biased", [True, False])
def test_few_rows_equal_torch(layout: str, shape: tuple[int, int], biased: bool, cores: int) -> None:
    weight = LAYOUTS[layout](*shape)
    bias = torch.randn(shape[0]) if biased else None
    product = SkinnyLinear(weight, bias)
    for rows in (1, 2, 3, 4, 5, 6, 16, 65):
        hidden = torch.randn(rows, shape[1])
        expected = F.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
        found = product(hidden)
        assert found.is_contiguous()
        torch.testing.assert_close(found.double(), expected, atol=5e-4, rtol=1e-4)


@torch.no_grad()
def test_leading_dimensions_are_kept(cores: int) -> None:
    weight = nn.Parameter(torch.randn(512, 384))
    for leading in ((), (1,), (2, 3), (2, 1, 2), (0,), (100,)):
        hidden = torch.randn(*leading, 384)
        torch.testing.assert_close(linear(hidden, weight), F.linear(hidden, weight), atol=5e-4, rtol=1e-4)
    strided = torch.randn(384, 3, 2).permute(2, 1, 0)
    expected = F.gelu(F.linear(strided, weight))
    torch.testing.assert_close(linear(strided, weight, activation_name="gelu"), expected, atol=5e-4, rtol=1e-4)


def test_the_matrix_is_cut_only_where_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    if not products._HAS_MKL:
        pytest.skip("needs MKL")
    asked: list[int] = []
    call = SkinnyLinear.__call__

    def counted(self: SkinnyLinear, hidden: torch.Tensor) -> torch.Tensor:
        asked.append(len(hidden))
        return call(self, hidden)

    monkeypatch.setattr(SkinnyLinear, "__call__", counted)
    weight, hidden = nn.Parameter(torch.randn(512, 384)), torch.randn(2, 384)
    assert linear(hidden, weight).grad_fn is not None  # gradients are torch's
    with torch.no_grad():
        linear(hidden.double(), nn.Parameter(weight.double()))
        linear(hidden, weight.detach())  # what is no ordinary parameter may have a product of its own
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(hidden, weight).dtype is torch.bfloat16
        assert not asked
        linear(hidden, weight)
    assert asked == [2]
