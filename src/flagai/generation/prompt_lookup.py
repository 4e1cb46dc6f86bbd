"""Prompt lookup: what an answer copies from its text is guessed from there, and many tokens are judged in one step.

Where the newest tokens of an answer have stood before, in the text or in the answer, what followed there is a draft of
what follows here. The model scores the whole draft at once; as far as it would have chosen the same tokens itself, they
are kept, and one more that it chooses. So every answer is what it would be without drafts, in fewer steps.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"; the drafts are those of
Saxena 2023, "Prompt Lookup Decoding".
"""

import torch

from flagai.generation.decoding_state import Scored
from flagai.generation.draft_state import Chain
from flagai.generation.processors import Pipeline
from flagai.generation.replay.steps import records
from flagai.generation.sampling import IndependentLanes
from flagai.generation.search import Choice
from flagai.generation.types import StopHook

# So many of the newest tokens are compared with those before.
_LONGEST = 4


class PromptLookup(IndependentLanes):
    """Greedy search or sampling with drafts; one answer to each text.

    A token is drawn with a random number that was fixed for its place, so a drawn answer is the same as well.

    Args:
        tree: the texts.
        pipeline: from logits to scores.
        hook: ends pieces; None for none.

    Raises:
        InputError: there is not one seed per text.
    """

    tree: Chain
    patience = 3  # a step writes several tokens

    def __init__(self, tree: Chain, pipeline: Pipeline, hook: StopHook | None) -> None:
        super().__init__(tree, pipeline, hook)
        # Recorded steps have always the same number of tokens; others need no place for drafts that are not there.
        self._fixed = records(tree)

    def choose(self, scored: Scored) -> Choice:
        """See the base class; the tokens are the next chain."""
        plain, scores = self.pipeline(scored.logits)
        tokens = self.pick(scores)
        gained, closes = self.account(tokens, plain, scores, None)
        last = (gained.sum(1, keepdim=True) - 1).clamp(min=0)
        newest = tokens.gather(1, last)
        self.tree.accept(last, newest)
        drafts, matched = look_up(self.tree.said, self.tree.clock, self.tree.width - 1)
        if not self._fixed:
            drafts = drafts[:, : self._worth(matched)]
        chain = torch.cat([newest, drafts], dim=1)
        closed = None if closes is None else closes.gather(1, last).expand_as(chain)
        return Choice(chain, last.expand_as(chain), closed)

    def _worth(self, matched: torch.Tensor) -> int:
        """How long drafts shall be: of a text the longer, the more tokens match; of a batch, what is the average.

        Args:
            matched: how many tokens match, [B, 1].
        """
        running = ~self.ended
        return int(((2**matched - 1) * running).sum()) // max(int(running.sum()), 1)

    def gained(self, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """See the base class: those up to the first one that differs from the draft, which is the model's own."""
        agreed = (tokens[:, :-1] == self.tree.newest()[:, 1:]) & ~ends[:, :-1]
        return torch.cat([~self.ended, agreed], dim=1).cumprod(1).bool()

    def total(self, lanes: torch.Tensor) -> torch.Tensor:
        """See the base class; lanes are one behind the other."""
        return lanes.sum(1, keepdim=True)

    def hooked(self, tokens: torch.Tensor, parents: torch.Tensor | None, asked: torch.Tensor) -> torch.Tensor:
        """See the base class; nothing is asked about tokens behind an end."""
        ends = torch.zeros_like(asked)
        if self.hook is None:
            return ends
        answers, kept, news = self.tree.written().tolist(), self.kept.tolist(), tokens.tolist()
        for row, places in enumerate(asked.tolist()):
            for place, wanted in enumerate(places):
                piece = self.tree.pieces([*answers[row][0][: kept[row][0] + place], news[row][place]])[-1]
                if not wanted or self.hook(self.tree.numbers[row], piece):
                    ends[row, place] = wanted
                    break
        return ends


def look_up(said: torch.Tensor, end: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What may follow: what followed where the newest tokens have stood before.

    The longest match counts, and the latest of those. A draft that reaches the end goes on as if the text began again
    behind the match, which is right where it repeats itself. Where nothing matches, the newest token is repeated.

    Args:
        said: texts and answers, -1 in front; what stands behind the end means nothing, [B, T].
        end: where the newest token stands, [B, 1].
        count: length of a draft.

    Returns:
        Drafts, [B, count], and how many tokens match, [B, 1].
    """
    # Window j has what stands before place j, the newest first.
    windows = torch.nn.functional.pad(said, (_LONGEST, 0), value=-1).unfold(1, _LONGEST, 1).flip(2)
    behind = end + 1
    newest = windows.gather(1, behind[..., None].expand(-1, -1, _LONGEST))
    same = (windows == newest) & (windows >= 0)
    places = torch.arange(windows.shape[1], device=said.device)
    matched = same.cumprod(2).sum(2).masked_fill(places > end, -1)
    begin = (matched * windows.shape[1] + places).argmax(1, keepdim=True)
    ahead = torch.arange(count, device=said.device) % (behind - begin)
    return said.gather(1, begin + ahead), matched.amax(1, keepdim=True)
