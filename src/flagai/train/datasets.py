"""Rows of Parquet files and of Hugging Face ``datasets``, whose numbers of classes are written as names."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flagai.checks import check_extra
from flagai.data.parquet import parquet_features, parquet_rows
from flagai.errors import InputError

Row = tuple[str, dict[str, Any]]


def rows_of_parquet(path: Path) -> Iterator[Row]:
    """The place and the fields of each row of a Parquet file.

    Raises:
        InputError: it cannot be read, or is not a Parquet file.
    """
    try:
        with path.open("rb") as stream:
            rows = [(f"row {number}", row) for number, _, row in parquet_rows(stream, path)]
            names = _class_names(parquet_features(stream))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    yield from ((place, _named(fields, names)) for place, fields in rows)


def rows_of_folder(path: Path) -> Iterator[Row]:
    """The place and the fields of each row of a data set that ``save_to_disk`` wrote.

    Raises:
        InputError: datasets is absent, or the folder is none of its own, or has several splits.
    """
    if (path / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        raise InputError(f"{path} has the splits {', '.join(splits)}. Name one: {path / (splits or ['train'])[0]}.")
    if not (path / "dataset_info.json").is_file():
        raise InputError(f"{path} is a folder, but none that datasets' save_to_disk wrote. Name a file, or such one.")
    check_extra("datasets", "datasets")
    from datasets import load_from_disk

    try:
        return rows_of(load_from_disk(str(path)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read by datasets: {error}.") from error


def rows_of(rows: Iterable[Any]) -> Iterator[Row]:
    """The place and the fields of each row of a ``datasets.Dataset``, or any other series of mappings.

    Raises:
        InputError: a row is not a mapping.
    """
    if isinstance(rows, Iterator):
        raise InputError("The data is an iterator, which can be read only once. Give a list, or a data set.")
    features: Any = getattr(rows, "features", None)
    names = _class_names(features.to_dict() if hasattr(features, "to_dict") else {})
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise InputError(f"Row {number} of the data is {row!r:.80}; expected a mapping such as {{'text': ...}}.")
        yield f"row {number}", _named(row, names)


def _class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of classes, by column: of a ClassLabel, or of a list of them."""
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, Mapping) else None
        if isinstance(inner, Mapping) and inner.get("_type") == "ClassLabel" and isinstance(inner.get("names"), list):
            found[column] = inner["names"]
    return found


def _named(row: Mapping[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    return {column: _name(value, names[column]) if column in names else value for column, value in row.items()}


def _name(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_name(entry, names) for entry in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
