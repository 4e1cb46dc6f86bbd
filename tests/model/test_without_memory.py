"""Building without memory: everything has a shape and nothing is drawn, also in modules that are not ours."""

import torch
from torch import nn

from flagai.model.building import without_memory
from flagai.model.layer import Embeddings, FeedForward, RMSNorm


def test_all_parameters_and_buffers_are_without_memory() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with without_memory():
        modules = nn.ModuleList(
            [
                FeedForward(8, 16, "gelu"),
                Embeddings(10, 8, positions=4, norm_eps=1e-5),
                RMSNorm(8),
                nn.LSTM(8, 8),
                nn.BatchNorm1d(8),
                nn.Conv1d(8, 8, 3),
                nn.MultiheadAttention(8, 2),
                nn.Linear(8, 8, bias=False),
            ]
        )
        free = [torch.tensor([1.0]), torch.arange(3), torch.rand(2), torch.full((2,), 7.0)]
    tensors = [*modules.parameters(), *modules.buffers(), *free]
    assert len(tensors) > 25
    assert all(tensor.is_meta for tensor in tensors)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_named_device_is_obeyed_and_the_mode_ends() -> None:
    with without_memory():
        assert not torch.ones(2, device="cpu").is_meta
    assert not torch.ones(2).is_meta
    assert float(FeedForward(8, 16, "gelu").up.weight.detach().abs().max()) > 0
