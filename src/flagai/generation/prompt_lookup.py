"""Prompt lookup: drafts of what follows are looked up in the text and in the answer, and verified in one forward pass.

Where the last tokens of an answer have occurred before, the tokens that followed there are a draft of what follows
here. The model scores the whole draft at once (speculative decoding); as far as it would have chosen the same tokens
itself, they are kept, and one more that it chooses. So every answer is what it would be without drafts, in fewer steps.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"; the drafts are those of
Saxena 2023, "Prompt Lookup Decoding".
"""

import torch

from flagai.generation.draft_state import DraftState
from flagai.generation.sampling import SamplingSearch
from flagai.generation.types import Choice, StepOutput

# So many of the last tokens are compared with earlier ones.
_LONGEST = 4


class PromptLookup(SamplingSearch):
    """Greedy search or sampling with drafts; one answer to each text.

    A token is sampled with a random number that is fixed for its place, so a sampled answer is the same as well.

    Args:
        sizes: the sizes of the batch.
        state: the answers so far.
        processors: from logits to scores.
    """

    state: DraftState

    def choose(self, output: StepOutput) -> Choice:
        """Verify the draft, and look up the next one."""
        plain, scores = self.processors(output.logits)
        tokens = self.pick(scores)
        accepted, stops = self.update_scores(tokens, plain, scores)
        last = (accepted.sum(1, keepdim=True) - 1).clamp(min=0)
        last_token = tokens.gather(1, last)
        self.state.accept(last, last_token)
        drafts, matched = look_up(self.state.sequence, self.state.token_index, self.sizes.lanes - 1)
        if not self.state.captured:  # else all steps have the same number of tokens
            drafts = drafts[:, : self._worth(matched)]
        draft = torch.cat([last_token, drafts], dim=1)
        stops = None if stops is None else stops.gather(1, last).expand_as(draft)
        return Choice(draft, last.expand_as(draft), stops)

    def _worth(self, matched: torch.Tensor) -> int:
        """The lengths of drafts: of a text the longer, the more tokens match; of a batch, what is the average.

        Args:
            matched: how many tokens match, [B, 1].
        """
        running = ~self.ended
        return int(((2**matched - 1) * running).sum()) // max(int(running.sum()), 1)

    def accepted(self, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """The tokens up to the first one that differs from the draft, included."""
        draft = self.state.next_ids[:, 1:]
        agreed = (tokens[:, :-1] == draft) & ~ends[:, :-1]
        if self.state.rules.pad_id is not None:
            agreed = agreed & (draft != self.state.rules.pad_id)  # what follows must not attend to it
        return torch.cat([~self.ended, agreed], dim=1).cumprod(1).bool()

    def sum_over_draft(self, beams: torch.Tensor) -> torch.Tensor:
        """Sums over the tokens of a draft, which are one lane behind the other."""
        return beams.sum(1, keepdim=True)

    def stopped_by_hook(self, tokens: torch.Tensor, parents: torch.Tensor | None, asked: torch.Tensor) -> torch.Tensor:
        """Which tokens the hook ends an answer at; it is not asked about tokens behind an end."""

        def upto(row: int, place: int) -> list[int]:
            return [*self.state.generated()[row, 0, : int(self.kept[row]) + place].tolist(), int(tokens[row, place])]

        return self.ask_hooks(asked.cumprod(1).bool(), upto, in_order=True)  # up to the first that is not worth one


def look_up(sequence: torch.Tensor, end: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What may follow: what followed where the last tokens have occurred before.

    The longest match counts, and the latest of those. A draft that reaches the end goes on as if the text began again
    behind the match, which is right where it repeats itself. Where nothing matches, the last token is repeated.

    Args:
        sequence: texts and answers; tokens behind the end are undefined, [B, T].
        end: the index of the last token, [B, 1].
        count: length of a draft.

    Returns:
        Drafts, [B, count], and how many tokens match, [B, 1].
    """
    # Window j has the tokens before place j, the last one first.
    windows = torch.nn.functional.pad(sequence, (_LONGEST, 0), value=-1).unfold(1, _LONGEST, 1).flip(2)
    behind = end + 1
    last_tokens = windows.gather(1, behind[..., None].expand(-1, -1, _LONGEST))
    same = (windows == last_tokens) & (windows >= 0)
    places = torch.arange(windows.shape[1], device=sequence.device)
    matched = same.cumprod(2).sum(2).masked_fill(places > end, -1)
    begin = (matched * windows.shape[1] + places).argmax(1, keepdim=True)
    ahead = torch.arange(count, device=sequence.device) % (behind - begin)
    return sequence.gather(1, begin + ahead), matched.amax(1, keepdim=True)
