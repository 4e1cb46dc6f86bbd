"""Files as streams of bytes, compressed or not: what their endings mean."""

import gzip
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from flagai.checks import check_extra
from flagai.errors import InputError

COMPRESSIONS = (".gz", ".zst")


def form_of(path: Path) -> str:
    """The ending that tells the form of a file, without that of its compression, in lower case."""
    packed = path.suffix.lower() in COMPRESSIONS
    return (Path(path.stem).suffix if packed else path.suffix).lower()


@contextmanager
def open_input(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file for reading.

    Args:
        path: the file; ``.gz`` and ``.zst`` are unpacked on the way.

    Yields:
        Its content, and the file itself, whose position tells how far reading is.

    Raises:
        InputError: it cannot be opened.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        kind = path.suffix.lower()
        if kind == ".gz":
            yield stack.enter_context(cast(IO[bytes], gzip.GzipFile(fileobj=raw))), raw
        elif kind == ".zst":
            unpacked: Any = stack.enter_context(_zstandard().ZstdDecompressor().stream_reader(raw))
            yield stack.enter_context(io.BufferedReader(unpacked)), raw
        else:
            yield raw, raw


@contextmanager
def packed(target: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    """A stream whose content goes compressed to another one; the same content gives the same bytes.

    Args:
        target: where the bytes go.
        compression: ``.gz``, ``.zst`` or nothing.
    """
    if compression == ".gz":
        with gzip.GzipFile(filename="", fileobj=target, mode="wb", mtime=0) as stream:
            yield cast(IO[bytes], stream)
    elif compression == ".zst":
        with _zstandard().ZstdCompressor().stream_writer(target, closefd=False) as stream:
            yield stream
    else:
        yield target


def _zstandard() -> Any:
    check_extra("parquet", "zstandard")
    import zstandard

    return zstandard
