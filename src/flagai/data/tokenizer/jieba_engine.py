"""T5-PEGASUS: words cut by jieba first, then WordPiece for those that the vocabulary lacks."""

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from flagai.data.tokenizer.encoding import Encoding, Surface
from flagai.data.tokenizer.rust_engine import Join, RustEngine
from flagai.errors import ConfigError

_LETTER = re.compile("[a-zA-Z0-9]")


class JiebaEngine(RustEngine):
    """A word of the vocabulary stays whole; any other is cut by WordPiece.

    Literal command tokens are not understood, since T5-PEGASUS was trained so.
    """

    def __init__(self, tokenizer: RustTokenizer, join: Join) -> None:
        super().__init__(tokenizer, join)
        if importlib.util.find_spec("jieba") is None:
            raise ConfigError(
                "T5-PEGASUS cuts text into words with jieba, which is not installed. Type: pip install jieba, "
                'or ask for characters: Tokenizer.from_pretrained(..., segmenter="characters").'
            )
        self._words = self.vocabulary()

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of every text."""
        return [entry.ids for entry in self.encode(texts)]

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """The encoding of every text."""
        rows = [list(jieba_segmenter()(text)) for text in texts]
        unknown = list({word for row in rows for word in row if word not in self._words})
        pieces = dict(zip(unknown, super().encode(unknown), strict=True))
        return [self._row(row, pieces) for row in rows]

    def _row(self, words: list[str], pieces: dict[str, Encoding]) -> Encoding:
        ids: list[int] = []
        for word in words:
            number = self._words.get(word)
            ids += pieces[word].ids if number is None else [number]
        return Encoding(ids, partial(_surface, words, pieces))


def _surface(words: list[str], pieces: dict[str, Encoding]) -> Surface:
    found = Surface([], [])
    start = 0
    for word in words:
        known = pieces[word] if word in pieces else Surface([word], [(0, len(word))])
        found.tokens.extend(known.tokens)
        found.offsets.extend((start + begin, start + end) for begin, end in known.offsets)
        start += len(word)
    return found


@functools.cache
def jieba_segmenter() -> Callable[[str], Iterator[str]]:
    """The segmenter of jieba without its hidden Markov model, as T5-PEGASUS was trained."""
    import jieba

    segmenter: Any = jieba.Tokenizer()
    # What its initialize() does, but without a cache in the folder for temporary files, and without messages.
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return partial(_cut, segmenter, jieba.re_han_default, jieba.re_skip_default)


def _cut(segmenter: Any, block: re.Pattern[str], skip: re.Pattern[str], text: str) -> Iterator[str]:
    """The words of a text."""
    for part in block.split(text):
        if block.match(part):
            yield from _words(segmenter, part)
            continue
        for rest in skip.split(part):
            yield from [rest] if skip.match(rest) else rest


def _words(segmenter: Any, block: str) -> Iterator[str]:
    """The words of a block without spaces; letters and digits in a row are one word.

    jieba's own loop joins such a row letter by letter, which takes the square of its length.
    """
    route: dict[int, tuple[float, int]] = {}
    segmenter.calc(block, segmenter.get_DAG(block), route)
    start = at = 0
    while at < len(block):
        end = route[at][1] + 1
        if end > at + 1 or not _LETTER.match(block[at]):
            if start < at:
                yield block[start:at]
            yield block[at:end]
            start = end
        at = end
    if start < at:
        yield block[start:]
