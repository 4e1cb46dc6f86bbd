"""The norm of a sum with dropout and gradients gives torch's values and gradients."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flagai.model.layer import learning
from flagai.model.layer import learning_norm as module
from flagai.model.layer.learning_norm import _added_norm, learning_norm, plain
from flagai.model.layer.linear import Linear


@pytest.fixture(autouse=True)
def there(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(learning, "usable", lambda *_: True)
    # Few programs: each has several strides over the rows, the last of them not full.
    monkeypatch.setattr(module, "_PROGRAMS", 2)
    with device:
        torch.manual_seed(0)
        yield


def kept(rows: int, size: int, seed: torch.Tensor, dropped: int) -> Any:
    """What dropout multiplies by."""
    nothing, ones = torch.zeros(rows, size).half(), torch.ones(rows, size).half()
    gain, shift = torch.ones(2, size)
    return _added_norm(nothing, ones, None, gain, shift, seed, 1e-5, dropped)[1].float()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dropped", [0, 6554, 32768])
@pytest.mark.parametrize(("rows", "size"), [(1, 48), (7, 768), (300, 48), (65, 64)])
def test_values_and_gradients(rows: int, size: int, dropped: int, biased: bool) -> None:
    hidden, added, weights = (torch.randn(1, rows, size).half() for _ in range(3))
    gain, shift = torch.randn(size) * 0.3 + 1, torch.randn(size)
    seed = torch.randint(1 << 62, (1,)) if dropped else None
    factor = kept(rows, size, seed, dropped) if seed is not None else torch.ones(rows, size)
    leaves = [part.requires_grad_() for part in (hidden, added, gain, shift, torch.randn(size))[: 4 + biased]]
    exact = [part.detach().float().requires_grad_() for part in leaves]
    bias, exact_bias = (leaves[4], exact[4]) if biased else (None, torch.zeros(size))
    got = _added_norm(*leaves[:2], bias, *leaves[2:4], seed, 1e-5, dropped)[0]
    wanted = F.layer_norm(exact[0] + (exact[1] + exact_bias) * factor, (size,), exact[2], exact[3], 1e-5)
    torch.testing.assert_close(got.float(), wanted, atol=8e-3, rtol=8e-3)
    found = torch.autograd.grad(got, leaves, weights)
    expected = torch.autograd.grad(wanted, exact, weights.float())
    for one, other, leaf in zip(found, expected, leaves, strict=True):
        assert one.dtype == leaf.dtype
        torch.testing.assert_close(one.float(), other, atol=1e-2 * float(other.abs().max()), rtol=0)


def test_dropout_drops_as_many_as_it_should_and_anew_with_every_seed() -> None:
    rows, size, dropped = 400, 256, 6554
    one, same, two = (kept(rows, size, torch.tensor([seed]), dropped) for seed in (5, 5, 5 + (1 << 40)))
    assert torch.equal(one, same)
    torch.testing.assert_close(one.unique(), torch.tensor([0, 65536 / (65536 - dropped)]), atol=1e-3, rtol=0)
    lost = (one == 0).double()
    # Five deviations of what chance leaves.
    share, deviation = dropped / 65536, (0.1 * 0.9) ** 0.5
    assert abs(lost.mean() - share) < 5 * deviation / (rows * size) ** 0.5
    assert (lost.mean(0) - share).abs().max() < 5 * deviation / rows**0.5
    assert (lost.mean(1) - share).abs().max() < 5 * deviation / size**0.5
    neighbours = [(lost[:, distance:] * lost[:, :-distance]).mean() for distance in range(1, 9)]
    neighbours += [(lost[1:] * lost[:-1]).mean(), (lost * (two == 0)).mean()]
    for together in neighbours:
        assert abs(together - share**2) < 5 * share / (rows * size) ** 0.5


def test_operators_hold_what_the_compiler_expects() -> None:
    hidden, added = (torch.randn(3, 16).half().requires_grad_() for _ in range(2))
    gain, shift, bias = (torch.randn(16).requires_grad_() for _ in range(3))
    for seed, dropped in ((torch.tensor([3]), 6554), (None, 0)):
        for added_too in (bias, None):
            torch.library.opcheck(_added_norm, (hidden, added, added_too, gain, shift, seed, 1e-5, dropped))


def test_dropout_is_drawn_from_torchs_generator() -> None:
    norm, dropout = nn.LayerNorm(32), nn.Dropout(0.5)
    hidden, added = torch.randn(2, 3, 32)
    kind, layer = hidden.device.type, Linear(32, 32)
    calls: list[Any] = []
    with torch.autocast(kind, torch.float16):
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(learning_norm(norm, hidden, layer, added, dropout))
        norm.register_forward_hook(lambda *_: calls.append(1))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert drawn[0].dtype == torch.float16
        with torch.no_grad():
            learning_norm(norm, hidden, layer, added, dropout)
        assert len(calls) == 1, "without gradients, the module itself is called"
        learning_norm(norm, hidden, layer, added, nn.Dropout(1.0))
        assert len(calls) == 2
    learning_norm(norm, hidden, layer, added, dropout)
    assert len(calls) == 3
    assert not plain(norm), "it has a hook"
    assert plain(nn.LayerNorm(32))
    assert not plain(nn.LayerNorm(32, bias=False))


@pytest.mark.parametrize("way", ["ours", "without bias", "hooked", "another's"])
def test_the_bias_of_the_layer_before_is_added_once(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    layer: Any = nn.Linear(16, 32) if way == "another's" else Linear(16, 32, bias=way != "without bias")
    if way == "hooked":
        layer.register_forward_hook(lambda *_: None)
    left = []
    norms = module._added_norm
    monkeypatch.setattr(module, "_added_norm", lambda *inputs: left.append(inputs[2] is not None) or norms(*inputs))
    norm, dropout, hidden, found = nn.LayerNorm(32), nn.Dropout(0.0), torch.randn(1, 5, 32), torch.randn(1, 5, 16)
    wanted = norm(hidden + layer(found))
    expected = torch.autograd.grad(wanted.pow(3).sum(), list(layer.parameters()))
    with torch.autocast(hidden.device.type, torch.float16):
        got = learning_norm(norm, hidden, layer, found, dropout)
    torch.testing.assert_close(got.float(), wanted, atol=1e-2, rtol=1e-2)
    gradients = torch.autograd.grad(got.float().pow(3).sum(), list(layer.parameters()))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-2 * float(other.abs().max()), rtol=0)
    assert left == [way == "ours"]
