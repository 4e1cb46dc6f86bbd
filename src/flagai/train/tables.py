"""Tables with a header: CSV with quotes (RFC 4180), and TSV, whose cells are texts as they are."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from flagai.errors import InputError

TableRow = tuple[str, dict[str, str]]

_AS_JSON = "save the table as JSON lines (pandas: to_json(path, orient='records', lines=True))"
_CURES = {
    "larger than field limit": f"Shorten the cell, or {_AS_JSON}.",
    "new-line character": "End lines by LF or CR LF, and put texts with line breaks into quotes.",
}


def rows_of_csv(lines: Sequence[str], path: Path, separator: str = ",") -> Iterator[TableRow]:
    """The place and the cells of each row.

    Raises:
        InputError: the quotes of a row are open or misplaced, or it has not the header's number of cells.
    """
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True)
    cells: list[tuple[int, list[str]]] = []
    done = 0  # lines; a row, or a quote that is not closed, may have many, of which the first is named
    try:
        for row in reader:
            cells.append((done + 1, row))
            done = reader.line_num
    except csv.Error as error:
        cure = next((cure for part, cure in _CURES.items() if part in str(error)), None)
        cure = cure or "Close its quotes, and write those inside of a text twice."
        raise InputError(f"{path}, line {done + 1} is not CSV: {error}. {cure}") from error
    yield from _named(cells, path, 'Put texts that hold the separator into "quotes".')


def rows_of_tsv(lines: Sequence[str], path: Path) -> Iterator[TableRow]:
    """The place and the cells of each row: no quoting, unless all names of the header are quoted.

    Raises:
        InputError: a cell looks as if it were quoted, or a row has not the header's number of cells.
    """
    cells = [(number, line.removesuffix("\r").split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    if cells and all(_quoted(cell) for cell in cells[0][1]):
        yield from rows_of_csv(lines, path, "\t")
        return
    for number, row in cells:
        for cell in row:
            # A program which quotes would have written such a cell for another text.
            opened = cell.startswith('"') and cell.count('"') % 2
            if opened or (_quoted(cell) and '""' in cell[1:-1]):
                raise InputError(
                    f"{path}, line {number}: the cell {cell!r:.60} begins with a quotation mark as if the table were "
                    f"quoted, but .tsv files are read without quoting. Remove the mark, or {_AS_JSON}."
                )
    yield from _named(cells, path, "A text cannot hold tabs here; with such, " + _AS_JSON + ".")


def _quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _named(cells: Sequence[tuple[int, list[str]]], path: Path, cure: str) -> Iterator[TableRow]:
    """Rows by the names of the header."""
    header: list[str] | None = None
    for number, row in cells:
        place = f"{path}, line {number}"
        if header is None:
            header = [name.strip() for name in row]
            double = next((name for name in header if name and header.count(name) > 1), None)
            if double is not None:
                raise InputError(f"{place}: two columns are called {double!r}. Give each a name of its own.")
        elif len(row) == len(header):
            yield f"line {number}", dict(zip(header, row, strict=True))
        elif any(row):
            raise InputError(f"{place} has {len(row)} columns, the header {len(header)}: {', '.join(header)}. {cure}")
