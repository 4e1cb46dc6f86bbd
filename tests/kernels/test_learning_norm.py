"""The norm of a sum with dropout and gradients gives torch's values and gradients."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flagai.kernels import hardware
from flagai.kernels.compiled import add_norm as module
from flagai.kernels.compiled.add_norm import dropout_add_norm
from flagai.kernels.eligible import is_plain_norm
from flagai.model.layer.linear import Linear
from tests.kernels.operators import Operators

operator = torch.ops.flagai.dropout_add_norm
# Rows, size and whether some gains are weak; dropout and a bias.
SHAPES = [(1, 48, False), (7, 768, False), (7, 768, True), (150, 48, False), (65, 64, True)]
DROPOUTS = [(0, False), (0, True), (6554, True), (32768, False)]
# Every one of both; the other pairs are slow.
DEFAULT = [(SHAPES[i], DROPOUTS[j]) for i, j in ((0, 0), (1, 2), (2, 1), (3, 3), (4, 2), (4, 0))]


@pytest.fixture(autouse=True)
def there(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hardware, "has_triton_half", lambda *_: True)
    # Few programs: each has several strides over the rows, the last of them not full.
    monkeypatch.setattr(module, "MOST_PROGRAMS", 2)
    with device:
        torch.manual_seed(0)
        yield


def kept(rows: int, size: int, seed: torch.Tensor, dropped: int) -> Any:
    """What dropout multiplies by: it drops ones of either sign, so that means are small, which are divided by 100."""
    sign, factor = 1.0 - 2 * (torch.arange(size) % 2), 65536 / (65536 - dropped)
    nothing, ones = torch.zeros(rows, size).half(), sign.half().expand(rows, size)
    out = operator(nothing, ones, None, torch.ones(size), torch.zeros(size), seed, 1e4, dropped)[0]
    return factor * (100 * out * sign > factor / 2)


def gain_and_shift(size: int, *, weak: bool) -> tuple[torch.Tensor, torch.Tensor]:
    gain, shift = (torch.rand(size) + 0.5) * (2 * torch.randint(2, (size,)) - 1), torch.randn(size)
    if weak:  # no gain, hardly any, and one that is lost beside its shift
        gain[:3], shift[1:3] = torch.tensor([0.0, 1e-4, 0.1]), torch.tensor([0.0, 20.0])
    return gain, shift


@pytest.mark.parametrize(
    ("rows", "size", "weak", "dropped", "biased"),
    [
        pytest.param(*shape, *dropout, marks=() if (shape, dropout) in DEFAULT else pytest.mark.slow)
        for shape in SHAPES
        for dropout in DROPOUTS
    ],
)
def test_values_and_gradients(rows: int, size: int, dropped: int, biased: bool, weak: bool) -> None:
    hidden, added, weights = (torch.randn(1, rows, size).half() for _ in range(3))
    gain, shift = gain_and_shift(size, weak=weak)
    seed = torch.randint(1 << 62, (1,)) if dropped else None
    factor = kept(rows, size, seed, dropped) if seed is not None else torch.ones(rows, size)
    leaves = [part.requires_grad_() for part in (hidden, added, gain, shift, torch.randn(size))[: 4 + biased]]
    exact = [part.detach().float().requires_grad_() for part in leaves]
    bias, exact_bias = (leaves[4], exact[4]) if biased else (None, torch.zeros(size))
    got = operator(*leaves[:2], bias, *leaves[2:4], seed, 1e-5, dropped)[0]
    wanted = F.layer_norm(exact[0] + (exact[1] + exact_bias) * factor, (size,), exact[2], exact[3], 1e-5)
    torch.testing.assert_close(got.float(), wanted, atol=8e-3, rtol=8e-3)
    found = torch.autograd.grad(got, leaves, weights)
    expected = torch.autograd.grad(wanted, exact, weights.float())
    for one, other, leaf in zip(found, expected, leaves, strict=True):
        assert one.dtype == leaf.dtype
        torch.testing.assert_close(one.float(), other, atol=1e-2 * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize("weak", [False, True], ids=["strong", "weak"])
def test_gradients_read_the_norm_or_what_was_kept(weak: bool) -> None:
    hidden, added, weights = (torch.randn(9, 48).half().requires_grad_() for _ in range(3))
    leaves = [hidden, added, *(part.requires_grad_() for part in gain_and_shift(48, weak=weak))]
    found = []
    for spoilt in (False, True):
        out, normal, _ = operator(hidden, added, None, *leaves[2:], None, 1e-5, 0)
        if spoilt:
            (out if weak else normal).data.fill_(float("nan"))
        found.append(torch.autograd.grad(out, leaves, weights))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


RATIOS = [
    pytest.param(0.0, 1.0, id="usual", marks=pytest.mark.slow),
    pytest.param(8.0, 12.0, id="bound"),
    pytest.param(8.1, 1.0, id="beyond"),
]


@pytest.mark.parametrize(("ratio", "near"), RATIOS)
def test_what_rounding_of_the_norm_costs(ratio: float, near: float) -> None:
    """Less than the input's gradient is rounded; and how much of the gain's, at the worst shift that is let pass."""
    rows, size, gain = 64, 256, torch.full((256,), 0.5)
    # Not bfloat16, which the interpreter cuts off.
    hidden, added, weights = (torch.randn(rows, size).half().requires_grad_() for _ in range(3))
    leaves = [hidden, added, gain.requires_grad_(), (gain.detach() * ratio).requires_grad_()]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    out = operator(hidden, added, None, *leaves[2:], None, 1e-5, 0)[0]
    wanted = F.layer_norm(exact[0] + exact[1], (size,), exact[2], exact[3], 1e-5)
    found = torch.autograd.grad(out, leaves, weights)
    expected = torch.autograd.grad(wanted, exact, weights.double())
    of_hidden, _, of_gain, _ = (
        float((one.double() - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True)
    )
    eps = torch.finfo(torch.float16).eps
    assert of_hidden < 0.3 * eps
    assert of_gain < 0.3 * eps * near


def test_dropout_drops_as_many_as_it_should_and_anew_with_every_seed() -> None:
    rows, size, dropped = 400, 256, 6554
    one, same, two = (kept(rows, size, torch.tensor([seed]), dropped) for seed in (5, 5, 5 + (1 << 40)))
    assert torch.equal(one, same)
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
    # Weak, else a result has space that nobody wrote, and two of those differ.
    gain, shift, bias = (part.requires_grad_() for part in (*gain_and_shift(16, weak=True), torch.randn(16)))
    for seed, dropped, added_too in ((torch.tensor([3]), 6554, bias), (None, 0, None)):
        torch.library.opcheck(operator.default, (hidden, added, added_too, gain, shift, seed, 1e-5, dropped))


def test_dropout_is_drawn_from_torchs_generator() -> None:
    norm, dropout = nn.LayerNorm(32), nn.Dropout(0.5)
    hidden, added = torch.randn(2, 3, 32)
    kind, layer = hidden.device.type, Linear(32, 32)
    calls: list[Any] = []
    with torch.autocast(kind, torch.float16):
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(dropout_add_norm(norm, hidden, layer, added, dropout))
        norm.register_forward_hook(lambda *_: calls.append(1))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert drawn[0].dtype == torch.float16
        with torch.no_grad():
            dropout_add_norm(norm, hidden, layer, added, dropout)
        assert len(calls) == 1, "without gradients, the module itself is called"
        dropout_add_norm(norm, hidden, layer, added, nn.Dropout(1.0))
        assert len(calls) == 2
    dropout_add_norm(norm, hidden, layer, added, dropout)
    assert len(calls) == 3
    assert not is_plain_norm(norm, 8192), "it has a hook"
    assert is_plain_norm(nn.LayerNorm(32), 8192)
    assert not is_plain_norm(nn.LayerNorm(32), 16)
    assert not is_plain_norm(nn.LayerNorm(32, bias=False), 8192)


@pytest.mark.parametrize("way", ["ours", "without bias", "hooked", "another's"])
def test_the_bias_of_the_layer_before_is_added_once(way: str) -> None:
    layer: Any = nn.Linear(16, 32) if way == "another's" else Linear(16, 32, bias=way != "without bias")
    if way == "hooked":
        layer.register_forward_hook(lambda *_: None)
    norm, dropout, hidden, found = nn.LayerNorm(32), nn.Dropout(0.0), torch.randn(1, 5, 32), torch.randn(1, 5, 16)
    wanted = norm(hidden + layer(found))
    expected = torch.autograd.grad(wanted.pow(3).sum(), list(layer.parameters()))
    with torch.autocast(hidden.device.type, torch.float16), Operators() as called:
        got = dropout_add_norm(norm, hidden, layer, found, dropout)
    torch.testing.assert_close(got.float(), wanted, atol=1e-2, rtol=1e-2)
    gradients = torch.autograd.grad(got.float().pow(3).sum(), list(layer.parameters()))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-2 * float(other.abs().max()), rtol=0)
    (inputs,) = called[operator.default]
    assert (inputs[2] is not None) == (way == "ours")
