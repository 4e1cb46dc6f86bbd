"""The log of a training: JSON lines, the same whether the run was interrupted or not."""

import json
import os
from pathlib import Path
from typing import Any

from flagai.errors import CheckpointError

Entry = dict[str, Any]


class Log:
    """A file of JSON lines, each with its ``step``; of several processes, only one writes."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path, self.writes = path, writes

    def begin(self, size: int) -> None:
        """Keep so many bytes, and forget what an interrupted run wrote after its last checkpoint."""
        if self.writes:
            with self.path.open("ab") as file:
                file.truncate(size)

    def add(self, entry: Entry) -> None:
        """Write a line.

        Raises:
            CheckpointError: the disk is full, or cannot be written.
        """
        if not self.writes:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be written: {error.strerror}. Make room on the disk; the same command continues "
                "from the last checkpoint."
            ) from error

    def size(self) -> int:
        """The length in bytes, all of which are on the disk then."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def entries(self) -> list[Entry]:
        """All lines."""
        # Not by typed_json: a loss may be NaN. The checkpoint has the checksum of the file.
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").split("\n") if line]
