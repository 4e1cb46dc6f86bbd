"""The rules of classical Chinese poems: as data, as a check, and as a logits processor for any model."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.poetry.checking import faults as faults
    from flagai.poetry.processor import PoemRules as PoemRules
    from flagai.poetry.processor import common_form as common_form
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__, {"flagai.poetry.checking": "faults", "flagai.poetry.processor": "PoemRules common_form"}
    )
