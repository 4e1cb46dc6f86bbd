"""How patient a download is: every number in one place."""

from dataclasses import dataclass

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Policy:
    """How patient a download is; times are in seconds, sizes in bytes."""

    attempts: int = 6  # failures in a row, without noteworthy progress between, after which a source is given up
    first_attempts: int = 3  # the same for a server that has not answered once
    backoff: float = 0.5  # before the second attempt; doubled for each further one, with jitter
    longest_backoff: float = 30.0  # between two attempts, unless the server asks for more
    longest_retry_after: float = 120.0  # a server that asks for a longer pause is given up at once
    connect_timeout: float = 5.0  # for a connection
    read_timeout: float = 30.0  # for the next bytes, and for the whole head of an answer with interim answers
    stall_seconds: float = 60.0  # a connection is given up that stays below `slowest` for so long
    slowest: int = 1024  # bytes per second
    redirects: int = 10  # of one request
    longest_text: int = 8 * MEGABYTE  # of a listing, a ticket or a manifest
    most_values: int = 250_000  # in such a text, since each takes much memory
    most_files: int = 10_000  # of a source
    largest_side_file: int = 1 << 30  # a file that holds no weights
    largest_unsized: int = 64 << 30  # a file whose size the server does not tell
    connections: int = 4  # how many segments of a large file are fetched at the same time at most
    fast: int = 250 * MEGABYTE  # bytes per second that make further connections needless
    ramp: float = 0.25  # after which another connection is added if the line is slower
    segment: int = 32 * MEGABYTE  # the size of a part of a large file
    large: int = 64 * MEGABYTE  # files from this size on are fetched in segments
    heartbeat: float = 1.0  # between two signs of life of the process that fetches
    stale: float = 30.0  # without a sign of life, after which a waiting process takes over
    patience: float = 900.0  # for which a process waits for another that lives but makes no progress

    @property
    def text_timeout(self) -> float:
        """Within which a listing, a ticket or a manifest must have come as a whole."""
        return self.read_timeout + self.stall_seconds
