"""Text in, typed results out."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.model.predictor.embedder import SentenceEmbedder as SentenceEmbedder
    from flagai.model.predictor.predictor import Predictor as Predictor
    from flagai.model.predictor.results import Classified as Classified
    from flagai.model.predictor.results import Entity as Entity
    from flagai.model.predictor.results import Filled as Filled
    from flagai.model.predictor.results import Similarity as Similarity
    from flagai.model.predictor.results import Written as Written
    from flagai.model.predictor.results import WrittenText as WrittenText
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "flagai.model.predictor.embedder": "SentenceEmbedder",
            "flagai.model.predictor.predictor": "Predictor",
            "flagai.model.predictor.results": "Classified Entity Filled Similarity Written WrittenText",
        },
    )
