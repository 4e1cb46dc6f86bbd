"""A task and a model's name in, a model and its tokenizer out."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.auto_model.auto_loader import AutoLoader as AutoLoader
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, {"flagai.auto_model.auto_loader": "AutoLoader"})
