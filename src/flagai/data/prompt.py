"""A text for generation, as token ids: what the data room prepares and the decoding engine reads."""

from dataclasses import dataclass

from flagai.errors import InputError


@dataclass(frozen=True)
class Prompt:
    """The ids of one text that is to be continued or whose blanks are to be filled."""

    ids: tuple[int, ...]  # the text with its command tokens, as the family expects it; for T5, the encoder's text
    # Where GLM's masks stand that are to be filled, in this order; () for a plain continuation.
    blanks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("ids", "blanks"):
            try:
                object.__setattr__(self, name, tuple(getattr(self, name)))
            except TypeError as error:
                raise InputError(f"Prompt has {getattr(self, name)!r:.60} as {name}; expected a sequence.") from error
