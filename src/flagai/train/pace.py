"""When a running training is saved between its evaluations."""

import time

# The first checkpoint comes soon: then a run that is cut off early begins again from it, not from its first step.
_FIRST = 2.0
# A checkpoint may take this share of the time between two.
_SHARE = 0.05


class Pace:
    """Says when a checkpoint is due by time: after 2, 4, 8, ... seconds, then in equal distances.

    Args:
        minutes: the longest time between two; 0: none is due by time.
    """

    def __init__(self, minutes: float) -> None:
        self._longest = 60 * minutes
        self._begin = self._last = time.monotonic()
        self._cost = 0.0

    def due(self) -> bool:
        """Whether it is time to save."""
        if not self._longest:
            return False
        wait = min(self._longest, max(_FIRST, self._last - self._begin))
        return time.monotonic() - self._last >= max(wait, self._cost / _SHARE)

    def saved(self, began: float) -> None:
        """Note that a checkpoint was written.

        Args:
            began: when, by the monotonic clock.
        """
        self._last = time.monotonic()
        self._cost = self._last - began
