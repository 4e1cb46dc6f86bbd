"""Text to token ids and back, for every model of the library."""

from flagai.data.tokenizer.encoding import Encoding
from flagai.data.tokenizer.tokenizer import Tokenizer

__all__ = ["Encoding", "Tokenizer"]
