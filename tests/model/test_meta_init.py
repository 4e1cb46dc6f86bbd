"""Building without memory: everything has a shape and nothing is drawn, also in modules that are not ours."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flagai.model import opening
from flagai.model.layer import Embeddings, FeedForward, RMSNorm
from flagai.model.meta_init import build_layers, init_on_meta
from tests import tiny


def test_all_parameters_and_buffers_are_without_memory() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with init_on_meta():
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
    with init_on_meta():
        assert not torch.ones(2, device="cpu").is_meta
    assert not torch.ones(2).is_meta
    assert float(FeedForward(8, 16, "gelu").up.weight.detach().abs().max()) > 0


def test_what_is_built_in_a_type_is_what_is_cast_to_it() -> None:
    """T5's layers that stay wide in float16 included."""
    config = tiny.build("T5Model").config
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        built = tiny.CLASSES["T5Model"].on_meta(config, dtype)
        cast = tiny.CLASSES["T5Model"].on_meta(config).to(dtype)
        types = {name: parameter.dtype for name, parameter in cast.named_parameters()}
        assert {name: parameter.dtype for name, parameter in built.named_parameters()} == types
        assert (torch.float32 in types.values()) is (dtype is torch.float16)


def block() -> nn.Module:
    made = nn.Sequential(FeedForward(8, 16, "gelu", dropout=0.5), nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    made[1].weight.requires_grad_(False)
    return made


def test_blocks_without_memory_are_as_if_each_was_built() -> None:
    with init_on_meta(torch.bfloat16):
        first, second, third = build_layers(block, 3)
        built = block()
        assert not list(build_layers(block, 0))
    assert str(third) == str(built)
    assert all(module.__dict__.keys() == same.__dict__.keys() for module, same in pairs(third, built))
    for (name, parameter), (same, expected) in zip(third.named_parameters(), built.named_parameters(), strict=True):
        assert name == same
        assert parameter.shape == expected.shape
        assert parameter.dtype == expected.dtype
        assert parameter.requires_grad == expected.requires_grad
    tensors = [tensor for made in (first, second, third) for tensor in [*made.parameters(), *made.buffers()]]
    assert len({id(tensor) for tensor in tensors}) == len(tensors)
    second.register_forward_hook(lambda *_: None)
    second[0].dropout = nn.Identity()
    second.eval()
    assert not third._forward_hooks
    assert isinstance(third[0].dropout, nn.Dropout)
    assert third.training


def pairs(one: nn.Module, other: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    return list(zip(one.modules(), other.modules(), strict=True))


def test_blocks_with_memory_are_drawn_each() -> None:
    first, second = build_layers(block, 2)
    assert not torch.equal(first[0].up.weight, second[0].up.weight)


def test_no_garbage_is_looked_for_while_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.build("BertModel").save_pretrained(tmp_path)
    enabled = []

    def opened(*given: Any, **options: Any) -> Any:
        enabled.append(gc.isenabled())
        return open_checkpoint(*given, **options)

    open_checkpoint = opening.open_checkpoint
    monkeypatch.setattr(opening, "open_checkpoint", opened)
    tiny.CLASSES["BertModel"].from_pretrained(tmp_path)
    assert enabled == [False]
    assert gc.isenabled()
