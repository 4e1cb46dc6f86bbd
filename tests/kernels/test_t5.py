"""The kernel of T5's decoding step gives what torch gives."""

from typing import Any

import pytest
import torch

from flagai.kernels.decode.t5_block import normed
from flagai.model.layer.norm import RMSNorm


@pytest.mark.parametrize("size", [48, 64])
@pytest.mark.parametrize(
    ("dtype", "stream"),
    [(torch.float32, torch.float32), (torch.float16, torch.float32), (torch.float16, torch.float16)],
    ids=str,
)
def test_norms(size: int, dtype: torch.dtype, stream: torch.dtype, device: torch.device) -> None:
    with device, torch.no_grad():
        torch.manual_seed(0)
        norm: Any = RMSNorm(size).to(dtype)
        norm.weight.normal_(1, 0.3)
        hidden = (3 * torch.randn(3, 5, size)).to(stream)
        got, wanted = normed(hidden, norm), norm(hidden)
    assert got.dtype == wanted.dtype
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=2e-3)
