"""Hugging Face's ``tokenizers``: WordPiece, byte-level BPE and any ``tokenizer.json``."""

from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from typing import Any

from tokenizers import AddedToken
from tokenizers import Encoding as RustEncoding
from tokenizers import Tokenizer as RustTokenizer

from flagai.data.tokenizer.commands import CommandToken
from flagai.data.tokenizer.encoding import Encoding, Surface
from flagai.data.tokenizer.formats import kept_lengths

Join = Callable[[Iterable[str]], str]


class RustEngine:
    """A tokenizer of the library ``tokenizers``, which knows its command tokens itself.

    Args:
        tokenizer: it neither pads nor truncates.
        join: makes a text of tokens; None leaves it to the tokenizer's own decoder.
        keep_blank: whether a text of nothing but blanks has tokens, where the tokenizer knows blanks at all.
    """

    def __init__(self, tokenizer: RustTokenizer, join: Join | None = None, *, keep_blank: bool = True) -> None:
        self.tokenizer = tokenizer
        self._join = join
        self._keep_blank = keep_blank
        self._swallowing: frozenset[str] = frozenset()
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=False)

    def add_commands(self, tokens: Iterable[CommandToken]) -> None:
        """Cut literal command tokens out of texts; one that the vocabulary lacks is put behind it, in order."""
        entries = [AddedToken(token.token, lstrip=token.lstrip, normalized=False) for token in tokens]
        self.tokenizer.add_special_tokens(entries)
        self._swallowing |= {entry.content for entry in entries if entry.lstrip}

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of every text."""
        encoded = self.tokenizer.encode_batch_fast(self._visible(texts), add_special_tokens=False)
        return [entry.ids for entry in encoded]

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """The encoding of every text."""
        encoded = self.tokenizer.encode_batch(self._visible(texts), add_special_tokens=False)
        return [Encoding(entry.ids, partial(_surface, entry, self._swallowing)) for entry in encoded]

    def decode(self, ids: Sequence[int], hidden: Container[int] = ()) -> str:
        """The text of ids, command tokens as they are written, but for those that are hidden."""
        shown = [number for number in ids if number not in hidden]
        if self._join is None:
            return str(self.tokenizer.decode(shown, skip_special_tokens=False))
        return self._join([self.token(number) for number in shown])

    def token(self, number: int) -> str:
        """The token of an id; empty if there is none."""
        return self.tokenizer.id_to_token(number) or ""

    def find(self, token: str) -> int | None:
        """The id of a token, if it is in the vocabulary."""
        number: Any = self.tokenizer.token_to_id(token)
        return None if number is None else int(number)

    def vocabulary(self) -> dict[str, int]:
        """All tokens, without command tokens that were added."""
        return dict(self.tokenizer.get_vocab(with_added_tokens=False))

    def _visible(self, texts: Sequence[str]) -> list[str]:
        return list(texts) if self._keep_blank else ["" if text.isspace() else text for text in texts]


def post_processed(tokenizer: RustTokenizer, texts: Sequence[str], limit: int | None) -> dict[str, Any]:
    """One text or two with the command tokens that ``tokenizer.json`` puts around them.

    Args:
        tokenizer: the tokenizer.
        texts: one or two.
        limit: at most so many ids.

    Raises:
        InputError: there is no room even for the command tokens.
    """
    parts = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    if limit is not None:
        lengths = [len(part.ids) for part in parts]
        room = limit - tokenizer.num_special_tokens_to_add(len(parts) == 2)
        for part, kept in zip(parts, kept_lengths(lengths, room), strict=True):
            part.truncate(kept)
    whole = tokenizer.post_process(parts[0], parts[1] if len(parts) == 2 else None)
    return {"input_ids": whole.ids, "token_type_ids": whole.type_ids, "attention_mask": whole.attention_mask}


def _surface(entry: RustEncoding, swallowing: frozenset[str]) -> Surface:
    """Tokens and offsets; the blanks that a command token swallows are not its own."""
    tokens, offsets = entry.tokens, entry.offsets
    for index, token in enumerate(tokens if swallowing else ()):
        bare = token.lstrip()
        if bare in swallowing:
            tokens[index] = bare
            offsets[index] = (offsets[index][1] - len(bare), offsets[index][1])
    return Surface(tokens, offsets)
