"""Texts of many clients, gathered for one call of an encoder: up to a budget of tokens, or until the first is due."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from flagai.serve.work import Ticket


@dataclass
class _Waiting:
    """Entries of one kind."""

    entries: deque[tuple[Ticket, int]] = field(default_factory=deque)
    tokens: int = 0
    due: float = 0.0


class PackQueue:
    """Entries that wait for an encoder.

    Args:
        tokens: of one call at most, unless a single entry has more.
        seconds: that an entry waits for others.
    """

    def __init__(self, tokens: int, seconds: float) -> None:
        self._budget = tokens
        self._least = self._seconds = seconds
        self._waiting: dict[tuple[Any, ...], _Waiting] = {}

    def __len__(self) -> int:
        return sum(len(kind.entries) for kind in self._waiting.values())

    def took(self, seconds: float) -> None:
        """Say how long a call has taken: while calls are slow, entries wait longer, because a fuller call saves more.

        Args:
            seconds: of the call; entries wait for half of it, if that is longer than what was asked for.
        """
        self._seconds = max(self._least, seconds / 2)

    def add(self, ticket: Ticket, now: float) -> None:
        """Add the entries of a ticket.

        Args:
            ticket: the work.
            now: the time.
        """
        kind = self._waiting.setdefault(ticket.spec.key, _Waiting(due=now + self._seconds))
        kind.entries.extend((ticket, index) for index in range(len(ticket.spec.entries)))
        kind.tokens += sum(ticket.tokens)

    def seconds_left(self, now: float) -> float | None:
        """How long the engine may wait for further entries; None if none waits."""
        times = [0.0 if kind.tokens >= self._budget else max(kind.due - now, 0.0) for kind in self._waiting.values()]
        return min(times, default=None)

    def take(self, now: float) -> list[tuple[Ticket, int]]:
        """The entries of the next call, if it is time for one: of one kind, the oldest first, without canceled ones."""
        ready = [kind for kind in self._waiting.items() if kind[1].tokens >= self._budget or kind[1].due <= now]
        if not ready:
            return []
        key, kind = min(ready, key=lambda each: each[1].due)
        taken: list[tuple[Ticket, int]] = []
        tokens = 0
        while kind.entries:
            ticket, index = kind.entries[0]
            size = ticket.tokens[index]
            if taken and tokens + size > self._budget:
                break
            kind.entries.popleft()
            kind.tokens -= size
            if not ticket.canceled and ticket.error is None:
                taken.append((ticket, index))
                tokens += size
        if not kind.entries:
            del self._waiting[key]
        return taken
