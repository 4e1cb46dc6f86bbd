"""Hugging Face's ``tokenizers``: WordPiece, byte-level BPE and any ``tokenizer.json``."""

import pickle
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial

from tokenizers import AddedToken
from tokenizers import Encoding as RustEncoding
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordLevel

from flagai.data.tokenizer.commands import CommandToken
from flagai.data.tokenizer.encoding import Encoding, Surface
from flagai.data.tokenizer.formats import Frame, Frames, Slot
from flagai.data.tokenizer.text import spaced

Join = Callable[[Iterable[str]], str]


class RustEngine:
    """A tokenizer of the library ``tokenizers``, which knows its command tokens itself, and neither pads nor cuts."""

    def __init__(
        self,
        tokenizer: RustTokenizer,
        join: Join | None = None,  # makes a text of tokens; None leaves it to the tokenizer's own decoder
        *,
        keep_whitespace: bool = True,  # whether a text of spaces has tokens, where the tokenizer knows spaces at all
        stripping: Iterable[str] = (),  # added tokens that take the spaces beside them
        finish: Callable[[str], str] = str,  # what is done to a text that the tokenizer's decoder has made
    ) -> None:
        self.tokenizer = tokenizer
        self._join = join
        self._keep_whitespace = keep_whitespace
        self._stripping = frozenset(stripping)
        self._finish = finish
        # Other spellings of tokens of the vocabulary have ids behind all others, which are hidden.
        self._ordinary: RustTokenizer | None = None  # the same, but special tokens are ordinary text
        self._meant: dict[int, int] = {}
        self._spelling: dict[int, int] = {}
        self.size: int = max(tokenizer.get_vocab().values(), default=-1) + 1

    def add_commands(self, tokens: Iterable[CommandToken]) -> None:
        """Cut literal command tokens out of texts; one that the vocabulary lacks is put behind it, in order.

        One whose id is that of another token of the vocabulary is another spelling of that, also where the vocabulary
        has its text under an id that no text leads to, as RoBERTa's has ``<|endoftext|>``.
        """
        tokens = list(tokens)
        spellings = [token for token in tokens if self.find(token.token) != token.Id < self.size]
        own = [(self.token(token.Id) if token in spellings else token.token, token) for token in tokens]
        others = {token.token: token for token in spellings}
        for text, token in (*own, *others.items()):
            entry = AddedToken(text, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
            self.tokenizer.add_special_tokens([entry])
            self._stripping |= {text} if token.lstrip or token.rstrip else set()
        for text, token in others.items():
            number = self.tokenizer.get_vocab()[text]
            self._meant[number] = token.Id
            self._spelling.setdefault(token.Id, number)

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of every text."""
        encoded = self.tokenizer.encode_batch_fast(self._visible(texts), add_special_tokens=False)
        return [self._ids(entry) for entry in encoded]

    def encode_ordinary(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of every text, whose command tokens are ordinary text."""
        literal = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        if not any(token in text for text in texts for token in literal):
            return self.encode_ids(texts)
        if self._ordinary is None:  # which few texts need
            self._ordinary = pickle.loads(pickle.dumps(self.tokenizer))  # noqa: S301  # our own
            self._ordinary.encode_special_tokens = True
        encoded = self._ordinary.encode_batch_fast(self._visible(texts), add_special_tokens=False)
        return [self._ids(entry) for entry in encoded]

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """The encoding of every text."""
        encoded = self.tokenizer.encode_batch(self._visible(texts), add_special_tokens=False)
        return [Encoding(self._ids(entry), partial(_surface, entry, self._stripping)) for entry in encoded]

    def decode(self, ids: Sequence[int], hidden: Container[int] = ()) -> str:
        """The text of ids, command tokens as they are written, but for those that are hidden."""
        if self._join is not None:
            return self._join([self.token(number) for number in ids if number not in hidden])
        spelled = [self._spelling.get(number, number) for number in ids]
        return self._finish(self.tokenizer.decode(spelled, skip_special_tokens=bool(hidden)))

    def token(self, number: int) -> str:
        """The token of an id; empty if there is none."""
        return "" if number in self._meant else self.tokenizer.id_to_token(number) or ""

    def find(self, token: str) -> int | None:
        """The id of a token, if it is in the vocabulary."""
        number: int | None = self.tokenizer.token_to_id(token)
        return None if number is None else self._meant.get(number, number)

    def vocabulary(self) -> dict[str, int]:
        """All tokens, without command tokens behind them."""
        return {token: number for token, number in self.tokenizer.get_vocab().items() if number < self.size}

    def normal(self, text: str) -> str:
        """A text as its tokens spell it; WordPiece cuts off punctuation and writes a space before a word."""
        rust = self.tokenizer
        text = text if rust.normalizer is None else rust.normalizer.normalize_str(text)
        if type(rust.model).__name__ == "WordPiece" and rust.pre_tokenizer is not None:
            return "".join(spaced(word) for word, _ in rust.pre_tokenizer.pre_tokenize_str(text)).lstrip()
        if type(rust.model).__name__ == "Unigram":
            return " " * text[:1].isspace() + " ".join(text.split()) if text.strip() else ""
        return text

    def _ids(self, entry: RustEncoding) -> list[int]:
        return [self._meant.get(number, number) for number in entry.ids] if self._meant else entry.ids

    def _visible(self, texts: Sequence[str]) -> list[str]:
        return list(texts) if self._keep_whitespace else ["" if text.isspace() else text for text in texts]


def frames_of(tokenizer: RustTokenizer) -> Frames:
    """The special tokens that a tokenizer's post-processor puts around one text, and around two."""
    # The post-processor does not look at the texts, so texts of one token each show what it does.
    bare = RustTokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))  # noqa: S106  # no password
    bare.post_processor = tokenizer.post_processor
    first, second = bare.encode_batch(["a", "b"], add_special_tokens=False)
    return _frame(bare.post_process(first)), _frame(bare.post_process(first, second))


def _frame(whole: RustEncoding) -> Frame:
    rows = zip(whole.ids, whole.type_ids, whole.special_tokens_mask, strict=True)
    return Frame(tuple(Slot(number, kind) if special else Slot(None, kind, number) for number, kind, special in rows))


def _surface(entry: RustEncoding, stripping: frozenset[str]) -> Surface:
    """Tokens and offsets; the spaces that an added token takes are not its own."""
    tokens, offsets = entry.tokens, entry.offsets
    for index, token in enumerate(tokens if stripping else ()):
        bare = token.strip()
        if bare in stripping:
            start = offsets[index][0] + len(token) - len(token.lstrip())
            tokens[index] = bare
            offsets[index] = (start, start + len(bare))
    return Surface(tokens, offsets)
