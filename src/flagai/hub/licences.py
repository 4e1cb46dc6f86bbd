"""The licence in a model's card."""

import logging
from pathlib import Path

from flagai.errors import InputError

logger = logging.getLogger(__name__)

_CARD = "README.md"


def state_licence(folder: Path, licence: str | None) -> None:
    """Write a licence into the head of a model's card; without one, warn if the card states none.

    Raises:
        InputError: there is no card, or its head cannot be read.
    """
    from huggingface_hub import ModelCard

    path = folder / _CARD
    if not path.is_file():
        if licence is not None:
            raise InputError(f"{folder} has no {_CARD} to write the licence into. Write a card first.")
        return
    try:
        card = ModelCard.load(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} has no head that can be read: {error}. Correct it.") from error
    if licence is not None:
        card.data.license = licence
        card.save(path)
    elif card.data.license in (None, "unknown"):
        logger.warning(
            "The card states no licence, so using the model is not permitted. Name one: --licence apache-2.0."
        )
