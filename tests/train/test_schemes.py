"""Tagging schemes: one table of the same entities in all of them, and tags that a scheme does not allow, by line."""

import logging
from pathlib import Path

import pytest

from flagai.errors import InputError
from flagai.train import labels
from flagai.train.recipe import TAG_SCHEMES, Recipe
from flagai.train.records import read_records
from flagai.train.schemes import check_scheme
from flagai.train.tasks import objective_for

# The entities of one sentence in each scheme: two neighbours of a type, a long one, a single one, one of another type.
TABLE = {
    "IOB1": "O I-A I-A B-A O I-B O I-A I-A I-A I-B",
    "IOB2": "O B-A I-A B-A O B-B O B-A I-A I-A B-B",
    "IOBES": "O B-A E-A S-A O S-B O B-A I-A E-A S-B",
    "BMES": "O B-A E-A S-A O S-B O B-A M-A E-A S-B",
    "BILOU": "O B-A L-A U-A O U-B O B-A I-A L-A U-B",
    "BMEWO": "O B-A E-A W-A O W-B O B-A M-A E-A W-B",
}
SAME = {"BIO": "IOB2", "BIOES": "IOBES"}
SPANS = [(1, 2, "A"), (3, 3, "A"), (5, 5, "B"), (7, 9, "A"), (10, 10, "B")]


def written(folder: Path, *rows: str) -> Path:
    """CoNLL with two texts for each row."""
    texts = ["".join(f"{chr(0x4E00 + i)}\t{tag}\n" for i, tag in enumerate(row.split())) for row in rows]
    (folder / "a.conll").write_text("\n".join(texts), encoding="utf-8")
    return folder / "a.conll"


@pytest.mark.parametrize("name", TAG_SCHEMES)
def test_all_schemes_say_the_same(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    records = read_records(written(tmp_path, TABLE[SAME.get(name, name)]))
    tags = labels.tags_of(records)
    for scheme in (None, name, name.lower()):
        check_scheme(records, [*tags], scheme)
    _, spans = labels.tagged(records[0], tags)
    assert [(span.start, span.end, span.label) for span in spans] == SPANS
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "row", "broken"),
    [
        ("IOB2", "B-A I-A O I-A", "line 4: I-A after O"),
        ("IOB2", "B-A I-B O B-B", "line 2: I-B after B-A"),
        ("IOB1", "O B-A", "line 2: B-A after O"),
        ("BIOES", "S-A B-A O O", "line 3: O after B-A"),
        ("BIOES", "S-A O E-A O B-A", "line 3: E-A after O"),
        ("BMES", "S-A B-A M-A", "line 3: the end after M-A"),
        ("BILOU", "U-A L-A O B-A", "line 2: L-A after U-A"),
        ("BIOES", "B-A E-B S-B", "line 2: E-B after B-A"),
    ],
)
def test_a_named_scheme_refuses_what_breaks_it(tmp_path: Path, name: str, row: str, broken: str) -> None:
    records = read_records(written(tmp_path, row))
    with pytest.raises(InputError, match=f"{broken}, which {name} does not allow"):
        objective_for("ner", "bert", records, Recipe(scheme=name))


def test_a_detected_scheme_warns_of_what_breaks_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    records = read_records(written(tmp_path, "B-A I-A O", "B-B I-B B-A", "O I-A O", "I-B"))
    objective_for("ner", "bert", records, Recipe())
    assert "The tags are IOB2, but 2 of them break it" in caplog.text
    assert (
        f"{tmp_path / 'a.conll'}, line 10: I-A after O; {tmp_path / 'a.conll'}, line 13: I-B after the" in caplog.text
    )
    caplog.clear()
    objective_for("ner", "bert", read_records(written(tmp_path, TABLE["IOB1"], "I-A I-A")), Recipe())
    assert caplog.text == ""


def test_rows_without_lines_count_their_tags() -> None:
    records = read_records([{"text": "ab", "tags": ["O", "I-A"]}, {"text": "ab", "tags": ["B-A", "I-A"]}])
    with pytest.raises(InputError, match="row 1, tag 2: I-A after O, which bio"):
        check_scheme(records, [*labels.tags_of(records)], "bio")


def test_held_out_data_follows_the_named_scheme(tmp_path: Path) -> None:
    objective = objective_for("ner", "bert", read_records(written(tmp_path, "B-A I-A O")), Recipe(scheme="BIO"))
    with pytest.raises(InputError, match="line 2: I-A after O"):
        objective.check(read_records(written(tmp_path, "O I-A"))[0])


def test_the_table_of_the_docs_says_the_same_in_each_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(("| IOB", "| B"))]
    found = []
    for row in rows:
        name, *cells = (cell.strip(" `") for cell in row.strip("|").split("|"))
        records = read_records([{"text": "张三丰北京在沪", "tags": cells}])
        check_scheme(records, [*labels.tags_of(records)], name.partition(" ")[0])
        found.append(labels.tagged(records[0])[1])
    assert len(found) == 6
    assert [(span.start, span.end, span.label) for span in found[0]] == [(0, 2, "PER"), (3, 4, "LOC"), (6, 6, "LOC")]
    assert all(spans == found[0] for spans in found)
