"""Rows that cannot be answered, and seeds."""

from pathlib import Path
from typing import Any

from flagai.errors import InputError
from flagai.jobs.answering import Answering, InputText, text_in
from flagai.jobs.parts import Part
from flagai.jobs.rows import RawRow

CALLS: list[int] = []


def answering(**changes: Any) -> Answering:
    def compute(entries: list[InputText]) -> list[str]:
        CALLS.append(len(entries))
        bad = [entry for entry in entries if entry.text == "bad"]
        if bad:
            raise InputError(f"{bad[0].place} is bad.")
        return [f"{entry.text}{entry.draws}" for entry in entries]

    known: dict[str, Any] = {"read": lambda place, fields: text_in(place, fields, "text"), "compute": compute}
    return Answering(as_fields=lambda found: {"answer": found}, **known | changes)


def part(*lines: str, number: int = 0) -> Part:
    rows = [RawRow(place, line.encode(), place) for place, line in enumerate(lines, 1)]
    return Part(Path("some.txt"), "some-0", number, rows)


def test_rows_that_fail_are_found_by_halving() -> None:
    CALLS.clear()
    lines = ["good"] * 500
    lines[17] = lines[400] = "bad"
    found = answering(draws=0).answer(part(*lines))
    assert [error["line"] for error in found.errors] == [18, 401]
    assert found.errors[0] == {"file": "some.txt", "line": 18, "error": "is bad."}
    assert len(found.rows) == 498
    assert len(CALLS) < 40


def test_equal_texts_have_the_next_seeds_and_parts_others() -> None:
    found = answering(draws=2).answer(part("a", "b", "a", "a"))
    assert [row["answer"] for row in found.rows] == ["a0", "b0", "a2", "a4"]
    others = answering(draws=2).answer(part("a", number=3))
    assert others.rows[0]["answer"] != "a0"


def test_rows_of_other_readers_keep_their_order() -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "n": 1}, {"text": "bad"}, {"no": 2}, {"text": "b"}]
    raw = [RawRow(number, row, 0) for number, row in enumerate(rows, 1)]
    found = answering().answer_rows(raw, lambda row: row.content)
    assert [row.get("answer", row.get("error", "")[:6]) for row in found] == ["a0", "is bad", "has no", "b0"]
    assert found[0]["n"] == 1


def test_texts_are_computed_in_batches() -> None:
    CALLS.clear()
    assert len(answering(batch_size=4).answer(part(*"abcdefghij")).rows) == 10
    assert CALLS == [4, 4, 2]
