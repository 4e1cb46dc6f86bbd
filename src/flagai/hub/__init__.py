"""Find, fetch once and verify the files of a model; importing this costs next to nothing."""

from flagai.hub.names import EVERYTHING
from flagai.hub.policy import Policy
from flagai.hub.store import ensure, look

__all__ = ["EVERYTHING", "Policy", "ensure", "look"]
