"""Masks in the form that attention kernels take."""

import pytest
import torch

from flagai.model.layer.mask import Dense, visibility

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scores_of_a_mask_lie_row_by_row(dtype: torch.dtype) -> None:
    """T5's bias comes out of a table head by head; fast kernels want the keys of a query side by side."""
    torch.manual_seed(0)
    bias = torch.randn(1, 5, 7, 12).permute(0, 3, 1, 2).to(dtype)
    visible = torch.rand(8, 1, 5, 7) > 0.3
    visible[2, :, 1] = False
    seen = visibility(Dense(visible), 5, 7, CPU, bias).tensor
    assert seen is not None
    assert seen.dtype is dtype
    assert seen.stride(-1) == 1
    kept = visible | ~visible.any(-1, keepdim=True)  # who would see nothing sees everything
    assert torch.equal(seen, torch.where(kept, bias, torch.tensor(-torch.inf, dtype=dtype)))
    assert visibility(Dense(torch.ones_like(visible)), 5, 7, CPU, bias).tensor is bias
