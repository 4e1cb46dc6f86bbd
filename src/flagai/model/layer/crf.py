"""A linear-chain conditional random field over labels."""

from collections.abc import Sequence

import torch
from torch import nn

from flagai.errors import InputError
from flagai.parallel.dtensor import local


class CRF(nn.Module):
    """Scores sequences of labels by emissions and transitions, without start and end scores.

    Rows are padded on the right.

    Args:
        num_labels: number of labels, C.

    Source:
        Lafferty et al. 2001, "Conditional Random Fields".
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_labels, num_labels))

    def forward(self, emissions: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of each row's labels.

        Args:
            emissions: [B, S, C]
            labels: [B, S]
            valid: True at real tokens, [B, S]

        Shape:
            -> [B]

        Raises:
            InputError: a real token follows padding (checked on a CPU).
        """
        if valid.device.type == "cpu" and bool((valid[:, 1:] & ~valid[:, :-1]).any()):
            raise InputError("A CRF needs its tokens in one piece: a real token or label follows padding or -100.")
        emissions, transitions = emissions.float(), self.transitions.float()
        keep = valid.to(emissions.dtype)
        labels = labels.masked_fill(~valid, 0)
        emitted = (emissions.gather(2, labels[..., None])[..., 0] * keep).sum(1)
        moved = (transitions[labels[:, :-1], labels[:, 1:]] * keep[:, 1:]).sum(1)
        return self._log_partition(emissions, transitions, valid) - emitted - moved

    @staticmethod
    def _log_partition(emissions: torch.Tensor, transitions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        scores = emissions[:, 0] * valid[:, 0, None]
        for step in range(1, emissions.shape[1]):
            moved = torch.logsumexp(scores[:, :, None] + transitions, dim=1) + emissions[:, step]
            scores = torch.where(valid[:, step, None], moved, scores)
        return torch.logsumexp(scores, dim=1)

    @torch.no_grad()
    def decode(self, emissions: torch.Tensor, valid: torch.Tensor, first: Sequence[int] = ()) -> torch.Tensor:
        """The best labels of each row (Viterbi).

        Args:
            emissions: [B, S, C]
            valid: True at real tokens, [B, S]
            first: the labels that the first token may have; FlagAI's predictor forces 0, "outside". Default: all.

        Shape:
            -> [B, S], -1 at padding
        """
        emissions, transitions = emissions.float(), local(self.transitions).float()
        scores = _begin(emissions, first)
        stay = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        history = []
        for step in range(1, emissions.shape[1]):
            # Beginning at 0: sums over a long text would lose digits.
            scores = scores - scores.amax(1, keepdim=True)
            best, origin = (scores[:, :, None] + transitions).max(dim=1)
            here = valid[:, step, None]
            scores = torch.where(here, best + emissions[:, step], scores)
            history.append(torch.where(here, origin, stay))
        path = [scores.argmax(1)]
        for origin in reversed(history):
            path.append(origin.gather(1, path[-1][:, None])[:, 0])
        return torch.stack(path[::-1], dim=1).masked_fill(~valid, -1)

    @torch.no_grad()
    def marginals(self, emissions: torch.Tensor, valid: torch.Tensor, first: Sequence[int] = ()) -> torch.Tensor:
        """How probable each label of each token is, over all labels of the others (forward-backward).

        Args:
            emissions: [B, S, C]
            valid: True at real tokens, [B, S]
            first: as in :meth:`decode`.

        Shape:
            -> [B, S, C], 0 at padding
        """
        emissions, transitions = emissions.float(), local(self.transitions).float()
        # Normalised at each step, which the last softmax undoes: sums over a long text would lose digits.
        forward = [_begin(emissions, first)]
        for step in range(1, emissions.shape[1]):
            moved = torch.logsumexp(forward[-1][:, :, None] + transitions, dim=1) + emissions[:, step]
            forward.append(torch.where(valid[:, step, None], moved.log_softmax(1), forward[-1]))
        backward = [torch.zeros_like(forward[0])]
        for step in range(emissions.shape[1] - 1, 0, -1):
            moved = torch.logsumexp(transitions + (emissions[:, step] + backward[-1])[:, None, :], dim=2)
            backward.append(torch.where(valid[:, step, None], moved.log_softmax(1), backward[-1]))
        scores = torch.stack(forward, dim=1) + torch.stack(backward[::-1], dim=1)
        return scores.softmax(-1).masked_fill(~valid[..., None], 0)


def _begin(emissions: torch.Tensor, first: Sequence[int]) -> torch.Tensor:
    """The scores of the first token's labels, [B, C]: of others than ``first``, if given, minus infinity."""
    scores = emissions[:, 0].clone()
    if first:
        refused = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
        refused[list(first)] = False
        scores = scores.masked_fill(refused, -torch.inf)
    return scores
