"""One decoding engine for all families; it knows ids only."""

from flagai.data.prompt import Prompt
from flagai.generation.engine import generate, stream
from flagai.generation.family import room
from flagai.generation.options import Decoding
from flagai.generation.types import Event, Hypothesis

__all__ = ["Decoding", "Event", "Hypothesis", "Prompt", "generate", "room", "stream"]
