"""The method names of FlagAI's tokenizers, each in terms of a few methods of ours."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from flagai.data.tokenizer import formats
from flagai.data.tokenizer.commands import Commands, CommandToken
from flagai.data.tokenizer.description import Description
from flagai.data.tokenizer.encoding import Encoding
from flagai.data.tokenizer.text import clean
from flagai.errors import InputError

if TYPE_CHECKING:
    from flagai.data.tokenizer.rust_engine import RustEngine
    from flagai.data.tokenizer.sentencepiece_engine import SentencePieceEngine

# Embeddings have a multiple of so many rows; a model without training can choose one that no token has.
_ROWS = 128
_STARTS = ("<s>", "[CLS]", "<pad>", "<|endoftext|>")
_ENDS = ("</s>", "<|endoftext|>", "[SEP]")


def _processed(text: str, process_fn: Callable[[str], str] | None) -> str:
    if process_fn is None:
        return text
    if not callable(process_fn):
        raise InputError(f"process_fn is {process_fn!r:.80}; expected a function from text to text.")
    return process_fn(text)


class FlagAINames(ABC):
    """What FlagAI's callers use, under its names."""

    description: Description
    _engine: "RustEngine | SentencePieceEngine"
    _commands: Commands

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """The encodings of many texts."""

    @abstractmethod
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids; ``skip_special_tokens`` leaves command tokens out."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens, command tokens included: every id is below it."""
        highest = max((token.Id for token in self._commands.tokens), default=0)
        return max(self._engine.size, highest + 1)

    num_tokens = vocab_size

    @property
    def num_text_tokens(self) -> int:
        """The number of tokens of the vocabulary, without command tokens behind it."""
        return self._engine.size

    @property
    def num_command_tokens(self) -> int:
        """The number of command tokens' names."""
        return len(self._commands.tokens)

    @property
    def text_tokenizer(self) -> "FlagAINames":
        """The tokenizer of the text between command tokens, which is the same object here."""
        return self

    @property
    def command_name_map(self) -> dict[str, CommandToken]:
        """Command tokens by name."""
        return dict(self._commands.by_name)

    @property
    def command_id_map(self) -> dict[int, CommandToken]:
        """Command tokens by id."""
        return dict(self._commands.by_id)

    @property
    def command_token_map(self) -> dict[str, CommandToken]:
        """Command tokens by text."""
        return dict(self._commands.by_text)

    @property
    def vocab(self) -> dict[str, int]:
        """As :meth:`get_vocab`."""
        return self.get_vocab()

    @property
    def token_pad_id(self) -> int:
        """The id of padding."""
        return self.get_command_id("pad")

    @property
    def token_start_id(self) -> int:
        """The id with which an input begins."""
        return self._first_of(_STARTS)

    @property
    def token_end_id(self) -> int:
        """The id with which an input ends."""
        return self._first_of(_ENDS)

    def get_command_id(self, name: str) -> int:
        """The id of a command token by its name, such as cls, mask, sop or gMASK; ENC and MASK, too."""
        return self._commands.get(name)

    def find_command_id(self, name: str) -> int | None:
        """The id of a command token, or None if there is none of this name."""
        return self._commands.find(name)

    def get_command(self, name: str) -> CommandToken:
        """A command token, by its name."""
        return self._commands.by_id[self._commands.get(name)]

    def CommandTokenIds(self, exception: Iterable[str] | None = None) -> list[int]:
        """The ids of all command tokens, with the ``exception`` of the given names."""
        left_out = () if exception is None else clean(exception)
        return [token.Id for token in self._commands.tokens if token.name not in left_out]

    def EncodeAsIds(self, text: str, process_fn: Callable[[str], str] | None = None) -> list[int]:
        """The ids of a text, which ``process_fn`` may change before."""
        return self.encode(_processed(text, process_fn))

    def EncodeAsTokens(self, text: str, process_fn: Callable[[str], str] | None = None) -> list[str]:
        """The tokens of a text, which ``process_fn`` may change before."""
        return self.tokenize(_processed(text, process_fn))

    def DecodeIds(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self.decode(ids)

    def DecodeTokens(self, tokens: Sequence[str]) -> str:
        """The text of tokens."""
        return self.decode(self.convert_tokens_to_ids(tokens))

    def tokenize(self, text: str, maxlen: int | None = None, add_spatial_tokens: bool = False) -> list[str]:
        """The tokens of a text, at most ``maxlen`` from its beginning, those around it included.

        Args:
            text: the text.
            maxlen: at most so many tokens.
            add_spatial_tokens: put the tokens [CLS] and [SEP] around; FlagAI spells "special" so.

        Raises:
            InputError: ``maxlen`` leaves no room for the tokens around a text.
        """
        formats.check_max_length(maxlen, "maxlen", 0)
        tokens = self.encode_batch([text])[0].tokens
        ends = [self.get_command(name).token for name in ("cls", "sep")] if add_spatial_tokens else []
        if maxlen is not None:
            if maxlen < len(ends):
                raise InputError(f"maxlen={maxlen} is too small for {len(ends)} command tokens. Give a larger one.")
            tokens = tokens[: maxlen - len(ends)]
        return [ends[0], *tokens, ends[1]] if ends else tokens

    def rematch(self, text: str, tokens: Sequence[str]) -> list[list[int]]:
        """For each of the tokens that :meth:`tokenize` gives, the indices of its characters; none for such as [UNK].

        Args:
            text: the text.
            tokens: its tokens.

        Returns:
            A list of indices for each token.
        """
        encoding = self.encode_batch([text])[0]
        own = list(zip(encoding.tokens, encoding.offsets, strict=True))
        found: list[list[int]] = []
        at = 0
        for token in clean(tokens):
            place = next((index for index in range(at, len(own)) if own[index][0] == token), None)
            hidden = place is None or (token.startswith("[") and token.endswith("]") and len(token) > 1)
            found.append([] if hidden or place is None else list(range(*own[place][1])))
            at = at if place is None else place + 1
        return found

    def get_vocab(self) -> dict[str, int]:
        """All tokens of the vocabulary and their ids, without command tokens behind it."""
        return self._engine.vocabulary()

    def TokenToId(self, token: str) -> int:
        """The id of a token, such as "▁今天" or "[MASK]"; that of an unknown one if there is none."""
        return self.convert_tokens_to_ids([token])[0]

    def IdToToken(self, id: int | CommandToken) -> str:  # noqa: A002  # FlagAI's name
        """The token of an id."""
        return self.convert_ids_to_tokens([id.Id if isinstance(id, CommandToken) else id])[0]

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """The ids of tokens."""
        return [self._id_of(token) for token in clean(tokens)]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens of ids."""
        checked = self._checked(ids)
        by_id = self._commands.by_id
        return [by_id[number].token if number in by_id else self._engine.token(number) for number in checked]

    def _checked(self, ids: Sequence[int]) -> list[int]:
        """Ids as integers that the vocabulary has."""
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        try:
            numbers = [operator.index(number) for number in ids]
        except TypeError as error:
            raise InputError(f"decode takes a sequence of integers, but got {ids!r:.80}.") from error
        rows = -(-self.vocab_size // _ROWS) * _ROWS
        for number in numbers:
            if not 0 <= number < rows:
                raise InputError(
                    f"The id {number} is not in the vocabulary of {self.description.name}, whose ids are "
                    f"0-{self.vocab_size - 1}. Does the model belong to this tokenizer?"
                )
        return numbers

    def _id_of(self, token: str) -> int:
        command = self._commands.by_text.get(token)
        found = self._engine.find(token) if command is None else command.Id
        if found is None:
            found = self._engine.find("<unk>")
        return self._commands.get("unk") if found is None else found

    def _first_of(self, texts: tuple[str, ...]) -> int:
        found = next((self._commands.by_text[text] for text in texts if text in self._commands.by_text), None)
        if found is None:
            raise InputError(f"This tokenizer has none of {', '.join(texts)}. Ask get_command_id for what you need.")
        return found.Id
