"""How patient a download is: every number in one place."""

from dataclasses import dataclass

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Policy:
    """How patient a download is.

    Args:
        attempts: failures in a row, without noteworthy progress between, after which a source is given up.
        first_attempts: the same for a server that has not answered once.
        backoff: seconds before the second attempt; doubled for each further one, with jitter.
        longest_backoff: no wait between two attempts is longer, unless the server asks for it.
        longest_retry_after: a server that asks for a longer pause is given up at once.
        connect_timeout: seconds to wait for a connection.
        read_timeout: seconds to wait for the next bytes, and for the whole head of an answer: status line, headers and
            interim answers.
        stall_seconds: a connection is given up that stays below ``slowest`` for so long.
        slowest: bytes per second.
        redirects: how many a request may follow.
        longest_text: bytes of a listing, a ticket or a manifest.
        most_values: how many values such a text may hold, since each takes much memory.
        most_files: how many files a source may list.
        largest_side_file: bytes of a file that holds no weights.
        largest_unsized: bytes of a file whose size the server does not tell.
        connections: how many segments of a large file are fetched at the same time at most.
        fast: bytes per second that make further connections needless.
        ramp: seconds after which another connection is added if the line is slower.
        segment: bytes of one segment.
        large: files from this size on are fetched in segments.
        heartbeat: seconds between two signs of life of the process that fetches.
        stale: seconds without a sign of life after which a waiting process takes over.
        patience: seconds that a process waits for another that lives but makes no progress.
    """

    attempts: int = 6
    first_attempts: int = 3
    backoff: float = 0.5
    longest_backoff: float = 30.0
    longest_retry_after: float = 120.0
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    stall_seconds: float = 60.0
    slowest: int = 1024
    redirects: int = 10
    longest_text: int = 8 * MEGABYTE
    most_values: int = 250_000
    most_files: int = 10_000
    largest_side_file: int = 1 << 30
    largest_unsized: int = 64 << 30
    connections: int = 4
    fast: int = 250 * MEGABYTE
    ramp: float = 0.25
    segment: int = 32 * MEGABYTE
    large: int = 64 * MEGABYTE
    heartbeat: float = 1.0
    stale: float = 30.0
    patience: float = 900.0

    @property
    def text_timeout(self) -> float:
        """Seconds within which a listing, a ticket or a manifest must have come as a whole."""
        return self.read_timeout + self.stall_seconds
