"""Text to token ids and back, for every model of the library."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

_FORMER = "BertWordPieceTokenizer GLM10bENBPETokenizer GLMLargeChTokenizer GLMLargeEnWordPieceTokenizer "
_FORMER += "ROBERTATokenizer T5BPETokenizer T5JiebaTokenizer"

if TYPE_CHECKING:
    from flagai.data.tokenizer.encoding import Encoding as Encoding
    from flagai.data.tokenizer.flagai_classes import BertWordPieceTokenizer as BertWordPieceTokenizer
    from flagai.data.tokenizer.flagai_classes import GLM10bENBPETokenizer as GLM10bENBPETokenizer
    from flagai.data.tokenizer.flagai_classes import GLMLargeChTokenizer as GLMLargeChTokenizer
    from flagai.data.tokenizer.flagai_classes import GLMLargeEnWordPieceTokenizer as GLMLargeEnWordPieceTokenizer
    from flagai.data.tokenizer.flagai_classes import ROBERTATokenizer as ROBERTATokenizer
    from flagai.data.tokenizer.flagai_classes import T5BPETokenizer as T5BPETokenizer
    from flagai.data.tokenizer.flagai_classes import T5JiebaTokenizer as T5JiebaTokenizer
    from flagai.data.tokenizer.tokenizer import Tokenizer as Tokenizer
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "flagai.data.tokenizer.encoding": "Encoding",
            "flagai.data.tokenizer.flagai_classes": _FORMER,
            "flagai.data.tokenizer.tokenizer": "Tokenizer",
        },
    )
