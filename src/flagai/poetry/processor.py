"""The rules of poems as a logits processor: what would break one gets the score -inf."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flagai.checks import check_flag
from flagai.data.prepare.poem import PoemForm, poem_prompt
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.families.family import family_and_row
from flagai.model.generation_defaults import end_tokens
from flagai.poetry.recurrence import recurrences
from flagai.poetry.tables import VerseTables
from flagai.poetry.verse import poem_data

# Titles whose prompts differ in nothing but the title: what all end with tells the form and where the poem begins.
_TITLES = ("一", "春江花月夜", "送别", "a 1")


@dataclass(frozen=True)
class Verses:
    """The poems so far, one for each row.

    Args:
        form: its number, [N].
        characters: their numbers, [N, P + L]; 0 behind the last one.
        length: how many there are, [N].
        begun: whether a token has been written, [N].
    """

    form: torch.Tensor
    characters: torch.Tensor
    length: torch.Tensor
    begun: torch.Tensor


class PoemRules:
    """Keeps answers to "title：form" within the rules of their form: a logits processor for any model of poems.

    Always: lines, punctuation, and no character more often than in 95 of 100 poems of the form. Strict: also the tones
    of a regulated poem, in one of four patterns that the poem chooses as it goes, and one level rhyme. They look ahead:
    a rhyme is open only while it has characters enough for the lines to come, so that no poem gets stuck. They know
    nothing but ids, and forms may be mixed in a batch. Share one object: texts with the same one run together.

    Args:
        model: the model, for its prompts and the size of its vocabulary.
        tokenizer: its tokenizer.
        strict: with tones and rhymes.
        form: the only form; needed for a model with an encoder, whose processors do not see the prompt.

    Raises:
        InputError: the model does not write, or its vocabulary lacks what poems need.

    Example:
        >>> poetry = flagai.load("poetry")
        >>> rules = PoemRules(poetry.model, poetry.tokenizer)
        >>> poetry.predictor.write("桃花：七言绝句", do_sample=True, logits_processors=[rules])
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, *, strict: bool = True, form: PoemForm | None = None) -> None:
        check_flag("strict", strict)
        family, row = family_and_row(model)
        if family is None or row is None or family.text is None or "write" not in row.methods:
            raise InputError(f"A {type(model).__name__} cannot generate text, so it writes no poems.")
        protocol, encoder = family.text(row.name, False), family.decoding is not None and family.decoding.encoder
        rows = model.config.vocab_size
        ends = [*protocol.stop(tokenizer), *(end_tokens(model.config, rows) if protocol.configured_ends else ())]
        tokens = [*tokenizer.token_bytes[:rows], *[b""] * max(rows - len(tokenizer.token_bytes), 0)]
        self._tables = {torch.device("cpu"): VerseTables.of(tokens, ends, poem_data(), strict=strict)}
        if encoder and form is None:
            raise InputError(f"A {type(model).__name__} needs the form of its poems: PoemRules(..., form=...).")
        self._forms = list(PoemForm) if form is None else [PoemForm(form)]
        self._only = encoder
        self._marks = [] if self._only else [self._end_of_prompt(protocol, tokenizer, each) for each in self._forms]
        if len(set(self._marks)) < len(self._marks) or not all(self._marks):
            raise InputError("The model's vocabulary cannot tell the forms of poems apart.")

    @staticmethod
    def _end_of_prompt(protocol: Any, tokenizer: Tokenizer, form: PoemForm) -> tuple[int, ...]:
        """What the prompts of all poems of a form end with."""
        prompts = protocol.prompts(tokenizer, [poem_prompt(title, form) for title in _TITLES], None)
        start = tuple(protocol.start(tokenizer))
        common = []
        for column in zip(*(reversed(prompt.ids + start) for prompt in prompts), strict=False):
            if len(set(column)) > 1:
                break
            common.append(column[0])
        return tuple(reversed(common))

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores in which what breaks a rule is forbidden; see ``flagai.generation.generate``.

        Args:
            ids: [B, W, T]
            scores: [B, W, V]
        """
        device = scores.device
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        tables = self._tables[device]
        size = len(tables.counts)
        found = scores.reshape(-1, scores.shape[-1])
        history = ids.reshape(-1, ids.shape[-1])
        form, begin = self._begins(history)
        verses = _written(history, begin, form.clamp(min=0), tables)
        recur = recurrences(verses.characters, verses.length, tables.limits[verses.form], tables)
        allowed = _allowed(verses, tables) & ~recur.forbidden
        done = verses.length >= tables.lengths[verses.form]
        allowed |= done[:, None] & tables.ends
        changed = (found[:, :size] - recur.penalty).masked_fill(~allowed, -torch.inf)
        ruled = (form >= 0)[:, None]
        if size < found.shape[1]:
            changed = torch.nn.functional.pad(changed, (0, found.shape[1] - size), value=-torch.inf)
        return torch.where(ruled, changed, found).view_as(scores)

    def _begins(self, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The form of each row, -1 for none, and where its poem begins, [N] each."""
        rows, length = history.shape
        form = torch.full((rows,), -1, device=history.device)
        begin = torch.zeros(rows, dtype=torch.long, device=history.device)
        numbers = [list(PoemForm).index(each) for each in self._forms]
        if self._only:  # a start token and the answer
            return form.fill_(numbers[0]), (history < 0).sum(1) + 1
        for number, mark in zip(numbers, self._marks, strict=True):
            if len(mark) > length:
                continue
            found = (history.unfold(1, len(mark), 1) == torch.tensor(mark, device=history.device)).all(-1)
            last = found.shape[1] - found.flip(1).int().argmax(1) - 1 + len(mark)
            begin = torch.where(found.any(1), last, begin)
            form = form.masked_fill(found.any(1), number)
        return form, begin


def common_form(model: Any, prompts: Sequence[str]) -> PoemForm | None:
    """The form that rules for these prompts need: None for a model that shows its prompts to processors.

    Args:
        model: the model.
        prompts: "title：form" each.

    Raises:
        InputError: the model has an encoder, and the prompts name several forms.
    """
    family, _ = family_and_row(model)
    if family is None or family.decoding is None or not family.decoding.encoder:
        return None
    forms = sorted({prompt.rpartition("：")[2] for prompt in prompts})
    if len(forms) != 1:
        raise InputError(
            f"A {type(model).__name__} writes poems of one form at a time, but the titles ask for {', '.join(forms)}. "
            "Call it once for each form."
        )
    return PoemForm(forms[0])


def _written(history: torch.Tensor, begin: torch.Tensor, form: torch.Tensor, tables: VerseTables) -> Verses:
    """The characters behind the prompts."""
    places = torch.arange(history.shape[1], device=history.device)
    own = places >= begin[:, None]
    tokens = history.clamp(0, len(tables.counts) - 1)
    counts = tables.counts[tokens] * own
    ahead, length = tables.characters.shape[1], tables.places.shape[-1]
    offsets = counts.cumsum(1) - counts
    characters = torch.zeros(len(history), length + 1, dtype=torch.long, device=history.device)
    for step in range(ahead):  # what does not fit goes behind the end, and is cut off
        place = torch.where(counts > step, offsets + step, length).clamp(max=length)
        characters.scatter_(1, place, tables.characters[tokens, step])
    return Verses(form, characters[:, :length], counts.sum(1).clamp(max=length - ahead), own.any(1))


def _allowed(verses: Verses, tables: VerseTables) -> torch.Tensor:
    """Which tokens continue one of the patterns that a poem has kept so far, [N, V]."""
    places = tables.places[verses.form]  # [N, K, P + L]
    written = torch.arange(places.shape[-1], device=places.device) < verses.length[:, None]
    kept = tables.fits[places, verses.characters[:, None].expand_as(places)] | ~written[:, None]
    alive = kept.all(-1)
    allowed = torch.zeros(len(places), len(tables.counts), dtype=torch.bool, device=places.device)
    for pattern in range(places.shape[1]):
        rows = alive[:, pattern].nonzero()[:, 0]
        if len(rows):
            part = Verses(verses.form[rows], verses.characters[rows], verses.length[rows], verses.begun[rows])
            windows = tables.windows[part.form, pattern, part.length]
            allowed[rows] |= tables.masks[windows] & _rhyming(part, pattern, written[rows], tables)
    return allowed & ~(tables.starts & verses.begun[:, None]) | _blanks(verses, tables)


def _blanks(verses: Verses, tables: VerseTables) -> torch.Tensor:
    """Tokens that write nothing but the blank with which an answer may begin."""
    return (tables.starts & (tables.counts == 0)) & ~verses.begun[:, None]


def _rhyming(verses: Verses, pattern: int, written: torch.Tensor, tables: VerseTables) -> torch.Tensor:
    """Which tokens keep the rhyme, and leave enough characters for the rhymes to come, [N, V]."""
    rhyme_places = tables.rhyme_places[verses.form, pattern]  # [N, P + L]
    ends = rhyme_places & written
    bits = tables.rhymes[verses.characters]
    ahead = tables.characters.shape[1]
    names = torch.arange(len(tables.sizes), device=bits.device)
    left = tables.sizes - ((bits[..., None] >> names) & 1).sum(1)  # of each rhyme, [N, R]
    needed = (rhyme_places & ~written).sum(1)
    scarce = left < needed[:, None] + 2 * ahead
    everything = (1 << len(tables.sizes)) - 1
    open_ones = _all_of(bits.masked_fill(~ends, everything))
    begun = ends.any(1)
    open_ones = torch.where(begun, open_ones, everything - (scarce.long() << names).sum(1))
    allowed = torch.ones(len(bits), len(tables.counts), dtype=torch.bool, device=bits.device)
    place = tables.rhyme_in[verses.form, pattern, verses.length]
    is_open = ((open_ones[:, None] >> names) & 1).bool()
    saving = begun & (is_open & scarce).any(1)
    for step in range(ahead):
        rows = ((place == step) | saving).nonzero()[:, 0]
        if not len(rows):
            continue
        characters = tables.characters[:, step]
        fits = (tables.rhymes[characters] & open_ones[rows, None]) != 0
        repeated = torch.zeros_like(fits)
        for end in verses.characters[rows].masked_fill(~ends[rows], -1).unique(dim=1).unbind(1):
            repeated |= characters == end[:, None]
        here = torch.where((place[rows] == step)[:, None], fits & ~repeated, ~fits)
        allowed[rows] &= here | (tables.counts <= step)
    return allowed


def _all_of(bits: torch.Tensor) -> torch.Tensor:
    """The bits that all have, [N, P] -> [N]."""
    columns: Sequence[torch.Tensor] = bits.unbind(1)
    found = columns[0]
    for column in columns[1:]:
        found = found & column
    return found
