"""What changes in a model between two steps counts from the next step on, although kernels keep what they have read."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from flagai.kernels.per_cache import PerCache
from flagai.model.layer.kernel_choice import only_kernels
from flagai.model.layer.paged_cache import PagedStep
from tests.kernels.steps import decoding_arguments, run, step_of
from tests.tiny import build

CPU = "cpu.decode_block.cpu_blocks"


def hook(model: nn.Module) -> None:
    norm = next(each for each in model.modules() if isinstance(each, nn.LayerNorm))
    norm.register_forward_hook(lambda _module, _args, output: output + 1)


def swap_parameter(model: nn.Module) -> None:
    linear = next(each for name, each in model.named_modules() if name.endswith("up"))
    linear.weight = nn.Parameter(torch.randn_like(linear.weight), requires_grad=False)


def swap_data(model: nn.Module) -> None:
    linear = next(each for name, each in model.named_modules() if name.endswith("up"))
    linear.weight.data = torch.randn_like(linear.weight)


def swap_module(model: nn.Module) -> None:
    block = next(each for name, each in model.named_modules() if name.endswith("blocks.0"))
    block.norm1 = nn.LayerNorm(block.norm1.normalized_shape)
    nn.init.normal_(block.norm1.bias)


@pytest.mark.parametrize("change", [hook, swap_parameter, swap_data, swap_module])
def test_a_change_between_two_steps_counts(change: Callable[[nn.Module], None]) -> None:
    found = []
    for names in ((CPU,), ()):
        torch.manual_seed(0)
        model = build("GPT2Model").eval()
        with torch.inference_mode(), only_kernels(*names):
            step = step_of(model, (9,))
            before = run(model, step, [3], [8])
            torch.manual_seed(1)
            change(model)
            found.append((before, run(model, step, [3], [8])))
    (before, after), (plain_before, plain_after) = found
    torch.testing.assert_close(before, plain_before)
    torch.testing.assert_close(after, plain_after)
    assert not torch.allclose(before, after, atol=1e-3)


def test_blocks_that_stay_the_same_are_read_once_for_a_number_of_rows() -> None:
    args, _, _ = decoding_arguments("gpt2", "cpu", torch.float32, (9,))
    blocks, hidden, mask, step = args
    made: list[int] = []

    def make(_: nn.ModuleList, hidden: torch.Tensor) -> None:
        made.append(hidden.shape[1])

    per_cache = PerCache(make)
    for rows in (1, 1, 2, 1, 2):  # each call of the engine is a step of its own, over one pool
        again = PagedStep(step.pool, step.slot_mapping, mask)
        assert not per_cache.suits(blocks, hidden.expand(1, rows, -1), mask, again)
    assert made == [1, 2]
    handle = blocks[0].register_forward_hook(lambda *_: None)
    for _ in range(2):
        per_cache.suits(*args)
    handle.remove()
    per_cache.suits(*args)
    assert made == [1, 2, 1, 1]
