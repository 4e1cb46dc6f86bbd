"""Entities as CoNLL, which training reads back, and as a page for people."""

import re
from dataclasses import asdict
from html import unescape

import pytest

from flagai.cli.entity_pages import PAGES, write_page
from flagai.model.predictor.results import Entity
from flagai.train import labels
from flagai.train.records import read_records
from tests.tools.commands import fails, lines, run

TEXTS = {
    "小明在北京大学读书，iPhone15也在。": [(0, 1, "PER"), (3, 6, "ORG"), (11, 18, "PRODUCT")],
    "Anna Smith flew to Rome & <Paris>.": [(0, 9, "PER"), (19, 22, "LOC"), (27, 31, "LOC")],
    "": [],
    "上海北京": [(0, 1, "LOC"), (2, 3, "LOC")],
}


def _write(path, texts):
    rows = [
        {
            "title": text,
            "entities": [asdict(Entity(a, b, kind, text[a : b + 1], 1 / (2 + a))) for a, b, kind in spans],
        }
        for text, spans in texts.items()
    ]
    write_page(path, "title", rows)


def test_training_reads_what_conll_holds(tmp_path):
    path = tmp_path / "a.conll"
    _write(path, TEXTS)
    read = [labels.tagged(record) for record in read_records(path)]
    expected = [(text, spans) for text, spans in TEXTS.items() if text]
    assert len(read) == len(expected)
    for (text, spans), (original, entities) in zip(read, expected, strict=True):
        assert re.sub(r"\s", "", text) == re.sub(r"\s", "", original)
        found = [(re.sub(r"\s", "", text[span.start : span.end + 1]), span.label) for span in spans]
        assert found == [(re.sub(r"\s", "", original[a : b + 1]), kind) for a, b, kind in entities]


def test_a_page_holds_the_texts_escaped(tmp_path):
    path = tmp_path / "a.html"
    _write(path, TEXTS)
    page = path.read_text(encoding="utf-8")
    paragraphs = re.findall("<p>(.*?)</p>", page, re.DOTALL)
    bare = [unescape(re.sub("<small>.*?</small>|</?mark.*?>", "", paragraph)) for paragraph in paragraphs]
    assert bare == list(TEXTS)
    marked = re.findall('<mark style="[^"]*" title="([^"]*)">(.*?)<small>(.*?)</small></mark>', paragraphs[1])
    assert marked == [("0.5000", "Anna Smith", "PER"), ("0.0476", "Rome", "LOC"), ("0.0345", "Paris", "LOC")]
    assert page.startswith("<!DOCTYPE html>")
    assert page.endswith("</html>\n")


def test_of_entities_that_overlap_the_best_stays_and_the_rest_is_told(tmp_path, caplog):
    path = tmp_path / "a.conll"
    _write(path, {"北京大学": [(0, 3, "ORG"), (2, 3, "LOC")]})
    assert path.read_text(encoding="utf-8") == "北 B-ORG\n京 I-ORG\n大 I-ORG\n学 I-ORG\n\n"
    assert "1 entities overlap others" in caplog.text


@pytest.mark.usefixtures("models")
def test_the_command_writes_pages_and_reads_so_many_tokens(tmp_path, caplog):
    text = "小明在北京大学读书"
    for ending in PAGES:
        run("ner", text, text, "--out", str(tmp_path / f"a{ending}"))
        assert (tmp_path / f"a{ending}").read_text(encoding="utf-8").count("明") == 2
    (row,) = lines(run("ner", text, "--json", "--max-length", "5"))
    assert all(
        entity["end"] < 3 and entity["text"] == text[entity["start"] : entity["end"] + 1] for entity in row["entities"]
    )
    assert "read: not its characters from 3 on" in caplog.text
    short, long = (
        lines(run("classify", text, "--model", "GPT2-base-ch", "--labels", "好,坏", "--json", *more))[0]["scores"]
        for more in (["--max-length", "5"], [])
    )
    assert short != long
    assert fails(SystemExit, "ner", text, "--max-length", "2") is not None
