"""How long each phase of a load takes, told to whoever turns debug messages on."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Time the body.

    Args:
        name: what it does, in a word.
    """
    start = time.perf_counter()
    yield
    logger.debug("%s: %.1f ms", name, 1e3 * (time.perf_counter() - start))
