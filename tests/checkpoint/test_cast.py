"""Casting on the CPU: values of every pair of types, and memory that comes in pages of the cheaper size."""

import sys

import pytest
import torch

from flagai.checkpoint.stream import cast as casting
from flagai.checkpoint.stream.cast import cast
from flagai.checkpoint.stream.memory import empty_like
from flagai.checkpoint.stream.plan import Copy

MEGABYTE = 1 << 20
HALVES = [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")


@pytest.mark.parametrize(("given", "wanted"), HALVES)
def test_every_value_of_a_half_type_is_cast_as_torch_does(given: torch.dtype, wanted: torch.dtype) -> None:
    source = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(given).repeat(9)
    target = torch.empty(source.shape, dtype=wanted)
    cast([Copy(source, target)])
    expected = source.to(wanted)
    assert torch.equal(target.isnan(), expected.isnan())
    assert torch.equal(target.nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize(("given", "wanted"), HALVES)
def test_windows_and_rows_longer_than_the_buffer(
    given: torch.dtype, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(casting, "FLOAT32_ELEMENTS", 1000)
    matrix = torch.randn(30, 1500).to(given)
    for view in (matrix, matrix.T, matrix[:, 500:1000], matrix[:, 500:1000].T, matrix[3:4, 100:1400]):
        target = empty_like(view, wanted)
        cast([Copy(view, target)])
        assert torch.equal(target, view.to(wanted))


def test_the_number_of_threads_is_left_alone() -> None:
    torch.set_num_threads(2)
    try:
        cast([Copy(torch.randn(99_999), torch.empty(99_999, dtype=torch.float16))])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
