"""The CRF's marginals are those of all paths, counted one by one."""

from itertools import pairwise, product

import pytest
import torch

from flagai.model.layer.crf import CRF

CLASSES = 3


@pytest.fixture
def crf() -> CRF:
    layer = CRF(CLASSES)
    torch.nn.init.normal_(layer.transitions, generator=torch.Generator().manual_seed(0))
    return layer


def _counted(crf: CRF, emissions: torch.Tensor, first: tuple[int, ...]) -> torch.Tensor:
    """[S, C] from the weight of every path of one row."""
    found = torch.zeros(emissions.shape, dtype=torch.float64)
    for path in product(range(CLASSES), repeat=len(emissions)):
        if first and path[0] not in first:
            continue
        score = sum(emissions[step, label].item() for step, label in enumerate(path))
        score += sum(crf.transitions[a, b].item() for a, b in pairwise(path))
        for step, label in enumerate(path):
            found[step, label] += torch.tensor(score, dtype=torch.float64).exp()
    return (found / found.sum(-1, keepdim=True)).float()


@pytest.mark.parametrize("first", [(), (0,), (0, 2)])
def test_marginals_are_those_of_all_paths(crf, first):
    lengths = [5, 1, 3]
    emissions = torch.randn(3, 5, CLASSES, generator=torch.Generator().manual_seed(1))
    valid = torch.arange(5) < torch.tensor(lengths)[:, None]
    found = crf.marginals(emissions, valid, first=first)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row, :length], _counted(crf, emissions[row, :length], first))
        assert not found[row, length:].any()


def test_marginals_are_the_slope_of_the_likelihood(crf):
    """d log Z / d emission, which the loss has, too: one row of any length, without counting paths."""
    emissions = torch.randn(1, 40, CLASSES, generator=torch.Generator().manual_seed(2), requires_grad=True)
    valid = torch.ones(1, 40, dtype=torch.bool)
    labels = torch.zeros(1, 40, dtype=torch.long)
    (slope,) = torch.autograd.grad(crf(emissions, labels, valid).sum(), emissions)
    expected = slope + torch.nn.functional.one_hot(labels, CLASSES)
    torch.testing.assert_close(crf.marginals(emissions.detach(), valid), expected, atol=1e-4, rtol=1e-4)


def test_a_long_row_keeps_its_digits(crf):
    """Away from its ends a row's marginals and labels are those of its parts."""
    emissions = torch.randn(1, 6000, CLASSES, generator=torch.Generator().manual_seed(3)) + 50
    valid = torch.ones(1, 6000, dtype=torch.bool)
    part = slice(5000, 5400)
    inner, whole = slice(100, 300), slice(5100, 5300)
    for read in (crf.marginals, crf.decode):
        torch.testing.assert_close(
            read(emissions, valid)[:, whole], read(emissions[:, part], valid[:, part])[:, inner], atol=1e-5, rtol=1e-4
        )
