"""Attention of a step's tokens over a slot table, split among programs, beside plain torch."""

from collections.abc import Sequence

import pytest
import torch

from flagai.kernels.decode.common import Slots
from flagai.kernels.decode.ops import decode_attention, new_counters
from flagai.model.layer.kernel_choice import only_kernels
from flagai.model.layer.paged_attention import SlotTable, paged_attention
from tests.kernels.steps import paged_step

# Few keys for a program: heads of 256 have 32.
LENGTHS = [(1,), (33,), (100,), (0, 97, 32, 1, 64), tuple(range(7, 23))]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("heads", "width"), [(2, 256), (3, 24), (1, 64)])
def test_attention(heads: int, width: int, lengths: Sequence[int], device: torch.device) -> None:
    torch.manual_seed(0)
    assert_equals_plain(heads, width, lengths, device, drafts=False)


def test_tokens_of_one_text(device: torch.device) -> None:
    """The last of them attend to keys that others write in the same step."""
    assert_equals_plain(2, 256, tuple(range(60, 69)), device, drafts=True)


def assert_equals_plain(heads: int, width: int, lengths: Sequence[int], device: torch.device, *, drafts: bool) -> None:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    step = paged_step((1, heads, width), lengths, device, dtype, drafts=drafts)
    table, slots = step.attn_mask.table, Slots.of(step, 0)
    assert isinstance(table, SlotTable)
    query, counters = torch.randn(len(lengths), heads * width).to(device, dtype), new_counters(heads, device)
    with only_kernels():
        wanted = paged_attention(query.view(-1, heads, width), slots.keys, slots.values, table, scale=0.1).flatten(1)
    for _ in range(2):  # counters are zeros again
        found = decode_attention(query, slots, table, 0.1, counters)
        tolerance = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
