"""How a transfer can fail, sorted by what may help: another attempt, another source, or nothing."""

from flagai.errors import HubError


class TemporaryError(HubError):
    """An attempt failed in a way that another may not."""

    def __init__(
        self,
        message: str,
        wait: float | None = None,  # seconds that the server asks for
        progress: bool = False,  # noteworthy progress was made before, so that the failures start to count anew
        stranger: str | None = None,  # the host, if it has not answered once yet: it is probably dead or blocked
    ) -> None:
        super().__init__(message)
        self.wait, self.progress, self.stranger = wait, progress, stranger


class RefusedError(HubError):
    """A server answered, and the answer is no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(HubError):
    """A source failed on every attempt; it is not asked for further files."""


class CancelledError(HubError):
    """The transfer was called off: another process has taken over, or another part of it failed."""


class ChangedError(HubError):
    """What the server has now is not what it had, or not what it announced."""

    rounds = 2  # how often the file is asked for again


class CorruptError(ChangedError):
    """The bytes are not those of the checksum; once may be the line's or an old part's fault, twice is the source's."""

    rounds = 1


class NoRangesError(HubError):
    """The server sends the whole file when it is asked for a part, or does not tell whether parts are of one file."""


class PageError(HubError):
    """The server answers with something that is not the file."""


class IncompleteError(HubError):
    """An index names files that the source does not have."""
