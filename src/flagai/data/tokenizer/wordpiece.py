"""BERT's WordPiece tokenizer, from ``tokenizer.json`` or ``vocab.txt``."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from flagai.errors import ModelNotFoundError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_wordpiece(folder: str | Path) -> Tokenizer:
    """Load the tokenizer of a BERT folder; it neither pads nor truncates.

    Args:
        folder: holds ``tokenizer.json``, or ``vocab.txt`` and perhaps ``tokenizer_config.json``, whose
            ``do_lower_case`` is honoured (default: lower case, accents stripped).

    Raises:
        ModelNotFoundError: the folder has neither file, or a file is damaged.
    """
    folder = Path(folder)
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            return tokenizer
        if (folder / "vocab.txt").is_file():
            return _from_vocabulary(folder / "vocab.txt", lower=_lower_case(folder))
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelNotFoundError(f"The tokenizer files in {folder} cannot be read: {error}") from error
    raise ModelNotFoundError(f"{folder} has no tokenizer: expected tokenizer.json or vocab.txt.")


def _lower_case(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return bool(settings.get("do_lower_case", True))


def _from_vocabulary(path: Path, *, lower: bool) -> Tokenizer:
    # Only "\n" ends an entry: some vocabularies hold other line separators as tokens.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    vocabulary = {token.rstrip("\r"): index for index, token in enumerate(lines)}
    missing = [token for token in _SPECIAL if token not in vocabulary]
    if missing:
        raise ModelNotFoundError(f"{path} lacks {', '.join(missing)}: it is no BERT vocabulary.")
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106
    tokenizer.normalizer = BertNormalizer(lowercase=lower, strip_accents=lower)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _SPECIAL])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer
