"""The log of a training: JSON lines, the same whether the run was interrupted or not."""

import json
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Log:
    """A file of JSON lines, each with its ``step``.

    Args:
        path: the file; it is opened for every line, because saving a model exchanges its folder.
        writes: False for processes that only look on.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        self.writes = writes

    def begin(self, step: int) -> None:
        """Forget what an interrupted run wrote after its last checkpoint."""
        if self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = [entry for entry in self.entries() if entry["step"] <= step] if step else []
            self.path.write_text("".join(_line(entry) for entry in kept), encoding="utf-8")

    def add(self, entry: Entry) -> None:
        """Write a line."""
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))

    def entries(self) -> list[Entry]:
        """All lines; a last one that was cut off is left out."""
        if not self.path.is_file():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found


def _line(entry: Entry) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
