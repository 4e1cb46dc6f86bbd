"""The pretrained language models of FlagAI's model module: GLM, BERT, GPT-2 and T5.

Importing this package costs nothing: its names are imported when they are first used.

Example:
    >>> flagai.load("poetry")("春江花月夜", seed=1)
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

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

__version__ = "0.2.0"


class _AbsentModules(MetaPathFinder):
    """Names the cure where FlagAI's code imports a module that this library does not have; Python asks it last."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if fullname.startswith("flagai."):
            from flagai.absent import INSTEAD

            if fullname in INSTEAD:
                raise ModuleNotFoundError(
                    f"flagai has no {fullname}: the original FlagAI has it. Use {INSTEAD[fullname]}; "
                    "see docs/differences-from-flagai.md.",
                    name=fullname,
                )


def _refuse_the_original() -> None:
    """Refuse to be one of two packages of this name; the original's has a module that this one never had."""
    folders = [*__path__, *(os.path.join(entry, "flagai") for entry in sys.path)]
    if found := [folder for folder in folders if os.path.isfile(os.path.join(folder, "trainer.py"))]:
        from flagai.absent import original_beside

        raise ImportError(original_beside(found))


_refuse_the_original()
sys.meta_path.append(_AbsentModules())
