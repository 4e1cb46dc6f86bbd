"""Making checkpoints, good and bad, and checking what is said about them."""

import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flagai.errors import FlagAIError
from tests import tiny

WEIGHTS = {"a.weight": torch.arange(12.0).view(3, 4), "b": torch.ones(5, dtype=torch.float16)}
SMALL = {"spell_length": None, "class_num": None}
_CURES = (
    r"[Dd]ownload|[Ff]etch|[Tt]ake|[Rr]un |[Ss]ave|[Rr]emove|[Nn]ame |[Rr]epair|[Cc]ompare|Expected|load it with|Put "
)


@contextmanager
def refused(*words: str, kind: type[FlagAIError] = FlagAIError) -> Iterator[None]:
    """Expect one clear error that says all these words and what to do."""
    with pytest.raises(kind) as caught:
        yield
    text = str(caught.value)
    assert all(str(word) in text for word in words), text
    assert re.search(_CURES, text), f"no cure in: {text}"


def write(path: Path, content: Any = WEIGHTS) -> Path:
    """Write tensors in the format that the name tells: safetensors, torch's zip, or its older one (``legacy*``)."""
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not path.name.startswith("legacy"))
    return path


def write_safetensors(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    """Write a safetensors file with any header, also a wrong one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def write_archive(path: Path, pickled: bytes, **records: bytes) -> Path:
    """Write a file in torch's zip format around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **records}.items():
            archive.writestr(f"archive/{name}", content)
    return path


def repack(
    path: Path, target: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    """Copy a zip file with changed records."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record)))
    return target


def saved(folder: Path, name: str = "GLMModel", *, seed: int = 0, layout: str = "flagai", **changes: Any) -> Any:
    """Save a tiny model and return it."""
    model = tiny.build(name, seed, **(SMALL if name == "GLMModel" else {}) | changes)
    model.save_pretrained(folder, layout=layout)
    return model


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder that :func:`saved` wrote, as copies."""
    return {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}


def equal(first: Any, second: Any) -> bool:
    """Whether two models have the same parameters, bit for bit."""
    one, two = dict(first.named_parameters()), dict(second.named_parameters())
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]) for name in one
    )
