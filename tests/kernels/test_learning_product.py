"""A product whose input goes on beside it: torch's values, and both gradients in one."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from flagai.kernels import hardware
from flagai.kernels.compiled.linear_residual import linear_with_residual


@pytest.fixture(autouse=True)
def there(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hardware, "has_triton_half", lambda *_: True)
    with device:
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("frozen", ["nothing", "hidden", "weight"])
@pytest.mark.parametrize("spread", [False, True], ids=["dense", "spread"])
def test_values_and_gradients(frozen: str, spread: bool) -> None:
    hidden = torch.randn(2, 5, 16).half().requires_grad_(frozen != "hidden")
    weight = torch.randn(24, 16).requires_grad_(frozen != "weight")
    exact, exact_weight = (leaf.detach().float().requires_grad_() for leaf in (hidden, weight))
    with torch.autocast(hidden.device.type, torch.float16):
        beside, product = linear_with_residual(hidden, weight)
    wanted = F.linear(exact, exact_weight)
    assert product.dtype == torch.float16
    assert torch.equal(beside, hidden)
    torch.testing.assert_close(product.float(), wanted, atol=2e-2, rtol=4e-3)
    # What comes back is somebody else's, perhaps without a place of its own for every number.
    given = torch.ones(1).half().expand(2, 5, 16) if spread else torch.randn(2, 5, 16).half()
    before, more = given.clone(), torch.randn(2, 5, 24).half()
    leaves = [leaf for leaf in (hidden, weight) if leaf.requires_grad]
    found = dict(zip(leaves, torch.autograd.grad((beside, product), leaves, (given, more)), strict=True))
    assert torch.equal(given, before)
    of_hidden, of_weight = torch.autograd.grad(wanted, (exact, exact_weight), more.float())
    for leaf, expected in ((hidden, of_hidden + before.float()), (weight, of_weight)):
        if leaf.requires_grad:
            assert found[leaf].dtype == leaf.dtype
            torch.testing.assert_close(found[leaf].float(), expected, atol=2e-2, rtol=4e-3)


def test_operator_holds_what_the_compiler_expects() -> None:
    torch.library.opcheck(
        torch.ops.flagai.add_product.default, (torch.randn(5, 16), torch.randn(5, 24), torch.randn(24, 16))
    )


def test_only_where_kernels_learn_and_numbers_are_half() -> None:
    hidden, weight = torch.randn(3, 16).requires_grad_(), torch.randn(24, 16)
    kind = hidden.device.type
    assert linear_with_residual(hidden, weight)[0] is hidden, "without autocast"
    with torch.autocast(kind, torch.float16):
        assert linear_with_residual(hidden, weight)[0] is hidden, "its gradient would be wide"
        assert linear_with_residual(hidden.half(), weight)[0].grad_fn is not None
        with torch.no_grad():
            half = hidden.half()
            assert linear_with_residual(half, weight)[0] is half
