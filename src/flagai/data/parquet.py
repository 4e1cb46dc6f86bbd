"""Rows of Parquet files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from flagai.checks import check_extra
from flagai.errors import InputError

# Rows that are in memory at a time.
_BATCH = 1024


def parquet_rows(stream: IO[bytes], path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The number of each row from 1 on, how many there are, and the row.

    Args:
        stream: the file, open.
        path: its name, for messages.

    Raises:
        InputError: pyarrow is absent, or it is not a Parquet file.
    """
    check_extra("parquet", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        file: Any = parquet.ParquetFile(stream)
        number, total = 0, max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, total, row
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a Parquet file: {error}.") from error


def parquet_features(stream: IO[bytes]) -> dict[str, Any]:
    """What ``datasets`` has written into a Parquet file about its columns; nothing in a file of another program."""
    from pyarrow import parquet

    metadata = parquet.ParquetFile(stream).schema_arrow.metadata or {}
    try:
        found = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
