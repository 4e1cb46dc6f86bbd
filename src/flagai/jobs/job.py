"""A job: parts of files are answered and written, by this process or by one for each device."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from flagai.jobs.answering import Answering
from flagai.jobs.folder import OutputFolder
from flagai.jobs.parts import Part


@dataclass(frozen=True)
class PartReport:
    """What has become of a part.

    Args:
        rows: rows that were answered.
        failed: rows that could not be.
        tokens: of the texts.
        path: the part's file.
        position: how far that has been read, in bytes.
        written: whether it was written now; else it was there.
    """

    rows: int = 0
    failed: int = 0
    tokens: int = 0
    path: str = ""
    position: int = 0
    written: bool = True


@dataclass
class Totals:
    """What has become of all parts so far."""

    parts: int = 0
    rows: int = 0
    failed: int = 0
    tokens: int = 0
    skipped: int = 0  # parts that had been written before
    begin: float = field(default_factory=time.monotonic)

    def add(self, report: PartReport) -> None:
        """Count a part."""
        self.parts += 1
        self.rows += report.rows
        self.failed += report.failed
        self.tokens += report.tokens
        self.skipped += not report.written

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return time.monotonic() - self.begin


def position_of(part: Part) -> int:
    """How far the part's file has been read, in bytes."""
    return part.rows[-1].position if part.rows else 0


def write_part(part: Part, answering: Answering, folder: OutputFolder) -> PartReport:
    """Answer a part and write it."""
    found = answering.answer(part)
    folder.write(part, found.rows, found.errors)
    return PartReport(len(found.rows), len(found.errors), found.tokens, str(part.path), position_of(part))


def missing(parts: Iterator[Part], folder: OutputFolder, skip: Callable[[Part], None]) -> Iterator[Part]:
    """The parts that have not been written yet.

    Args:
        parts: all parts.
        folder: where they go.
        skip: is called with those that are there.
    """
    for part in parts:
        if folder.is_done(part):
            skip(part)
        else:
            yield part


def run_here(parts: Iterator[Part], answering: Answering, folder: OutputFolder) -> Iterator[PartReport]:
    """Write parts in this process."""
    folder.agree_on_model(answering.model)
    return (write_part(part, answering, folder) for part in parts)
