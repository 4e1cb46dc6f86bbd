"""Linear layers and activations; tests/kernels/test_operations.py compares the products."""

import torch

from flagai.model.layer.linear import linear_act


@torch.no_grad()
def test_a_layer_put_in_place_of_ours_is_activated_too() -> None:
    foreign, hidden = torch.nn.Sequential(torch.nn.Linear(256, 2048)), torch.randn(20, 256)
    torch.testing.assert_close(linear_act(foreign, hidden, "relu"), foreign(hidden).relu())
