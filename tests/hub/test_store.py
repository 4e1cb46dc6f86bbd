from dataclasses import dataclass


@dataclass
class Known:
    name: str
    size: int | None = None
    sha256: str | None = None
    source: str | None = None
