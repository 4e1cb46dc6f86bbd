"""Masks in the form that attention takes."""

import pytest
import torch

from flagai.model.layer import Causal, Padding, RelativeBias
from flagai.model.layer.mask import Dense, prepare_mask


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("rows", [1, 3])
def test_scores_of_distances_lie_as_fused_attention_reads_them(rows: int, queries: int) -> None:
    """Torch's fused kernels refuse scores whose keys are not neighbours in memory."""
    keys, device = 9, torch.device("cpu")
    bias = RelativeBias(6, 8, 16, bidirectional=False)(queries, keys)
    assert bias.is_contiguous()
    seen = torch.rand(rows, 1, queries, keys) > 0.5
    seen[..., 0], seen[..., 1] = True, False
    padded = torch.arange(keys) < torch.tensor([[5], [9], [7]])[:rows]
    for mask in (Dense(seen), Causal() & Padding(padded)):
        found = prepare_mask(mask, queries, keys, device, bias=bias).tensor
        assert found is not None
        assert found.shape == (rows, 6, queries, keys)
        assert found.is_contiguous()
        hidden = found == -torch.inf
        torch.testing.assert_close(found[~hidden], bias.expand_as(found)[~hidden])
        assert hidden.any()
