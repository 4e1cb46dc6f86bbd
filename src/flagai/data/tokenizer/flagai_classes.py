"""FlagAI's classes of tokenizers, one for each kind of vocabulary: calling one gives our :class:`Tokenizer`."""

from pathlib import Path
from typing import Any, ClassVar

from flagai.data.tokenizer.tokenizer import Tokenizer
from flagai.errors import InputError

# Which command tokens there are is a property of the model: these change nothing.
_IGNORED = {"add_block_symbols", "add_sentinel_token", "add_task_mask", "add_decoder_mask", "fix_command_token"}


class BertWordPieceTokenizer:
    """A tokenizer of BERT, under FlagAI's name; so are the classes below for theirs.

    Args:
        vocab_path: the vocabulary's file, or its folder; default the files of the model that the class is named after,
            which are fetched if need be.
        cache_dir: the model directory, without a ``vocab_path``.
        **options: FlagAI's ``add_block_symbols``, ``add_task_mask`` and the like, which change nothing.

    Raises:
        InputError: there is another option, or no vocabulary.
    """

    model: ClassVar[str] = "BERT-base-en"

    def __new__(  # type: ignore[misc]
        cls, vocab_path: str | Path | None = None, cache_dir: str | Path | None = None, **options: Any
    ) -> Tokenizer:
        """The tokenizer."""
        unknown = sorted(options.keys() - _IGNORED)
        if unknown:
            raise InputError(f"{cls.__name__} takes no {', '.join(unknown)}. Use flagai.data.tokenizer.Tokenizer.")
        if vocab_path is not None:
            place = Path(vocab_path)
            return Tokenizer.from_folder(place if place.is_dir() else place.parent, cls.model or None)
        if not cls.model:
            raise InputError(f"{cls.__name__} needs the vocabulary: give vocab_path.")
        return Tokenizer.from_pretrained(cls.model, cache_dir)


class GLMLargeEnWordPieceTokenizer(BertWordPieceTokenizer):
    """Of GLM-large-en."""

    model = "GLM-large-en"


class GLMLargeChTokenizer(BertWordPieceTokenizer):
    """Of GLM-large-ch."""

    model = "GLM-large-ch"


class GLM10bENBPETokenizer(BertWordPieceTokenizer):
    """Of GLM-10b-en."""

    model = "GLM-10b-en"


class T5BPETokenizer(BertWordPieceTokenizer):
    """Of T5-base-en."""

    model = "T5-base-en"


class T5JiebaTokenizer(BertWordPieceTokenizer):
    """Of T5-base-ch."""

    model = "T5-base-ch"


class ROBERTATokenizer(BertWordPieceTokenizer):
    """Of a RoBERTa, whose vocabulary must be given."""

    model = ""
