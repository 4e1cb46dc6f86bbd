"""Files of a model's folder."""

import json
from pathlib import Path
from typing import Any


def written(folder: Path, config: dict[str, Any], files: dict[str, Any]) -> Path:
    for name, content in {"config.json": config, **files}.items():
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "config.json"
