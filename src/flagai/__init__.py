"""The pretrained language models of FlagAI's model module: GLM, BERT, GPT-2 and T5.

Importing this package costs nothing: its names are imported when they are first used.

Example:
    >>> import flagai
    >>> flagai.load("poetry")("春江花月夜", seed=1)
"""

import sys
from typing import TYPE_CHECKING

from flagai.absent import AbsentModules
from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.auto_model.auto_loader import AutoLoader as AutoLoader
    from flagai.data.tokenizer.tokenizer import Tokenizer as Tokenizer
    from flagai.listing import list_models as list_models
    from flagai.loading import load as load
    from flagai.model.predictor.embedder import SentenceEmbedder as SentenceEmbedder
    from flagai.model.predictor.predictor import Predictor as Predictor
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "flagai.auto_model.auto_loader": "AutoLoader",
            "flagai.listing": "list_models",
            "flagai.data.tokenizer.tokenizer": "Tokenizer",
            "flagai.loading": "load",
            "flagai.model.predictor.embedder": "SentenceEmbedder",
            "flagai.model.predictor.predictor": "Predictor",
        },
    )

__version__ = "0.1.0"

sys.meta_path.append(AbsentModules())
