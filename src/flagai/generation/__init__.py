"""One decoding engine for all families; it knows ids only."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.data.prompt import Prompt as Prompt
    from flagai.generation.engine import generate as generate
    from flagai.generation.engine import generate_each as generate_each
    from flagai.generation.engine import stream as stream
    from flagai.generation.options import Decoding as Decoding
    from flagai.generation.protocol import remaining_positions as remaining_positions
    from flagai.generation.request import Request as Request
    from flagai.generation.scheduler import Scheduler as Scheduler
    from flagai.generation.types import Event as Event
    from flagai.generation.types import Hypothesis as Hypothesis
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "flagai.data.prompt": "Prompt",
            "flagai.generation.types": "Event Hypothesis",
            "flagai.generation.options": "Decoding",
            "flagai.generation.engine": "generate generate_each stream",
            "flagai.generation.request": "Request",
            "flagai.generation.scheduler": "Scheduler",
            "flagai.generation.protocol": "remaining_positions",
        },
        renamed={"room": "remaining_positions"},
    )
