"""Data files as they are found: schemes of tags, blanks of all kinds, document marks, quotes, scripts, odd labels."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.train import labels
from flagai.train.labels import join_tokens
from flagai.train.recipe import Recipe
from flagai.train.records import Record, read_records
from flagai.train.tasks import objective_for

# What str.splitlines, str.split or csv take for ends of lines or columns, and is none.
ODD = "\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029\xa0\u3000\u200b"


def read(folder: Path, content: str, name: str = "a.conll") -> list[Record]:
    (folder / name).write_bytes(content.encode())
    return read_records(folder / name)


def columns(folder: Path, content: str) -> list[tuple[list[str], list[str]]]:
    return [(record.fields["tokens"], record.fields["tags"]) for record in read(folder, content)]


def spans(record: Record, known: dict[str, str]) -> list[tuple[str, str]]:
    text, found = labels.tagged(record, known)
    return [(text[span.start : span.end + 1], span.label) for span in found]


SCHEMES = {
    "IOB1": "Anna I-PER\nSmith I-PER\nBob B-PER\nin O\nRome I-LOC",
    "IOB2": "Anna B-PER\nSmith I-PER\nBob B-PER\nin O\nRome B-LOC",
    "BIOES": "Anna B-PER\nSmith E-PER\nBob S-PER\nin O\nRome S-LOC",
    "BMES": "Anna B-PER\nSmith E-PER\nBob S-PER\nin O\nRome S-LOC\n\na B-LOC\nb M-LOC\nc E-LOC",
    "BILOU": "Anna B-PER\nSmith L-PER\nBob U-PER\nin O\nRome U-LOC",
    "underscores": "Anna B_PER\nSmith I_PER\nBob B_PER\nin O\nRome B_LOC",
    "suffixes": "Anna PER-B\nSmith PER-I\nBob PER-B\nin O\nRome LOC-B",
    "small": "Anna b-PER\nSmith i-PER\nBob b-PER\nin o\nRome b-LOC",
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tags_of_every_scheme_teach_the_same(tmp_path: Path, scheme: str, bert_tokenizer: Tokenizer) -> None:
    records = read(tmp_path, SCHEMES[scheme] + "\n")
    found = spans(records[0], labels.tags_of(records))
    assert found == [("Anna Smith", "PER"), ("Bob", "PER"), ("Rome", "LOC")]
    plain = read(tmp_path, SCHEMES["IOB2"] + "\n")
    for task, names in (("ner", ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]), ("ner-gp", ["LOC", "PER"])):
        ours, theirs = (objective_for(task, "bert", given, Recipe()) for given in (records, plain))
        assert ours.names() == names
        batch = ours.batch(bert_tokenizer, records[:1], 0)
        assert torch.equal(batch["labels"], theirs.batch(bert_tokenizer, plain, 0)["labels"])


def test_entities_that_training_passes_over_are_counted(tmp_path: Path, bert_tokenizer: Tokenizer) -> None:
    tags = ["O"] * 4 + ["B-X", "O", "B-L", "I-L"]
    rows = [{"text": "一二三四五六北京", "tags": tags}, {"text": "一二三四iphone", "tags": tags[:5] + ["O"] * 5}]
    records = read(tmp_path, "\n".join(json.dumps(row) for row in rows), "a.jsonl")
    for task in ("ner", "ner-gp"):
        short, long = (objective_for(task, "bert", records, Recipe(max_length=length)) for length in (8, 20))
        assert short.unlearned(bert_tokenizer, records) == (
            "2 of 3 entities are not learned: 1 begin or end inside of a token of the model, 1 end after max_length=8 "
            "tokens (raise it, or cut texts)."
        )
        assert long.unlearned(bert_tokenizer, records[:1]) == ""
        assert (short.batch(bert_tokenizer, records, 0)["labels"] > 0).sum() == 1


def test_the_whole_file_tells_the_scheme(tmp_path: Path) -> None:
    records = read(tmp_path, "北 LOC-B\n京 LOC-B\n\n北 LOC-B\n京 LOC-I\n")
    assert spans(records[0], labels.tags_of(records)) == [("北", "LOC"), ("京", "LOC")]
    with pytest.raises(InputError, match=r"line 3: The label 'LOC' is none of O, B-TYPE"):
        objective_for("ner", "bert", read(tmp_path, "北 B-LOC\n\n京 LOC\n\n北 B-LOC\n京 I-LOC\n"), Recipe())
    plain = read(tmp_path, "北 LOC\n京 LOC\n是 O\n王 B-PER\n")
    assert spans(plain[0], labels.tags_of(plain)) == [("北京", "LOC"), ("王", "B-PER")]
    (blank,) = read(tmp_path, json.dumps({"text": " 北京 ", "tags": ["B-LOC", *["I-LOC"] * 3]}), "a.jsonl")
    assert spans(blank, {}) == [("北京", "LOC")]


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("-DOCSTART- -X- -X- O\n\nU.N. NNP I-NP I-ORG\n-DOCSTART-\nhe PRP I-NP O\n", [["U.N."], ["he"]]),
        ("-DOCSTART-\tO\nhe\tO\n", [["he"]]),
        ("# id 8e4f domain=en\n# _ _ O\nRome _ _ B-LOC\n", [["#", "Rome"]]),
        ("# sent_id = 1\n1\tVon\t_\tO\n2-3\tzum\t_\t_\n2\tzu\t_\tO\n3\tdem\t_\tO\n", [["Von", "zu", "dem"]]),
        ("1 O\n2 O\n", [["1", "2"]]),
        ("我 O\n  O\n\u3000 O\n \tO\n北 O\n", [["我", " ", "\u3000", " ", "北"]]),
        ("New York\tB-LOC\nis\tO\n", [["New York", "is"]]),
        ("京\t\tB-LOC\n在\t\t\tO\n", [["京", "在"]]),
        ("\ufeff我 O \r\n北\tB-LOC\r\n\r\n \t\r\n京 I-LOC\r\n", [["我", "北"], ["京"]]),
    ],
)
def test_lines_that_are_no_tokens_and_tokens_that_are_odd(
    tmp_path: Path, content: str, tokens: list[list[str]]
) -> None:
    assert [found for found, _ in columns(tmp_path, content)] == tokens


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("New York B-LOC\nis O\n", "line 2 has 2 columns, line 1 has 3.*tabs"),
        ("京 B-LOC\n\n在\n", "line 3 is '在'; expected a token and its tag"),
        ("京\tB-LOC\n\tO\n", "line 2 is .*; expected a token and its tag"),
        ("京\tB-LOC\n\u3000\n", "line 2 is .*; expected a token and its tag"),
    ],
)
def test_lines_that_cannot_be_read_are_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=f"a.conll, {message}"):
        read(tmp_path, content)


TOKEN = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n\r\t \ufeff"), min_size=1, max_size=4)
TOKEN = st.one_of(TOKEN, st.text(st.sampled_from(ODD + "a京"), min_size=1, max_size=4))
TEXT = st.lists(TOKEN.filter(lambda token: not token.startswith(("#", "-DOC"))), min_size=1, max_size=5)
ANYWHERE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@ANYWHERE
@given(st.lists(TEXT, min_size=1, max_size=3), st.sampled_from([" ", "\t"]), st.sampled_from(["\n", "\r\n"]))
def test_tokens_of_any_characters_come_back(tmp_path: Path, texts: list[list[str]], blank: str, end: str) -> None:
    lines = [end.join(f"{token}{blank}B-X" for token in text) for text in texts]
    assert [tokens for tokens, _ in columns(tmp_path, (end * 2).join(lines) + end)] == texts


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters='\n\r\t"\ufeff'), min_size=1, max_size=6)


@ANYWHERE
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=4))
def test_cells_of_any_characters_come_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    rows = [(f"a{first}", f'{second}"z') for first, second in rows]
    table = "text1\ttext2\n" + "".join(f"{first}\t{second}\n" for first, second in rows)
    assert [tuple(record.fields.values()) for record in read(tmp_path, table, "a.tsv")] == rows
    quoted = "text1,text2\n" + "".join('"{}","{}"\n'.format(*(c.replace('"', '""') for c in row)) for row in rows)
    assert [tuple(record.fields.values()) for record in read(tmp_path, quoted, "a.CSV")] == rows
    objects = [json.dumps({"x": row}, ensure_ascii=False) for row in rows]
    for content, name in (("\n".join(objects), "a.jsonl"), (f"[\n{','.join(objects)}\n]", "a.json")):
        assert [tuple(record.fields["x"]) for record in read(tmp_path, content, name)] == rows


HEAD = "text1\ttext2\tlabel\n"


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ('他说"你好"吗\tb\t1', ['他说"你好"吗', "b", "1"]),
        ('"百度"\tb\t1', ['"百度"', "b", "1"]),
        ('"百度"是什么\t""\t1', ['"百度"是什么', '""', "1"]),
        ("他'\t \t1", ["他'", " ", "1"]),
        ('"第一\t二\t1', "begins with a quotation mark.*without quoting"),
        ('"他说""你好"""\t二\t1', "begins with a quotation mark.*without quoting"),
        ("a\tb\tc\t1", "line 2 has 4 columns, the header 3.*JSON lines"),
    ],
)
def test_tsv_has_no_quotes(tmp_path: Path, line: str, cells: list[str] | str) -> None:
    content = f"{HEAD}{line}\n三\t四\t0\n"
    if isinstance(cells, str):
        with pytest.raises(InputError, match=cells):
            read(tmp_path, content, "a.tsv")
    else:
        first, second = read(tmp_path, content, "a.tsv")
        assert [*first.fields.values()] == cells
        assert second.place.endswith("line 3")


def test_a_table_all_quoted_is_read_as_such(tmp_path: Path) -> None:
    (record,) = read(tmp_path, '"a"\t"b"\n"x ""y""\n"\t"\t"\n', "a.tsv")
    assert record.fields == {"a": 'x "y"\n', "b": "\t"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\rx,y\r", "line 1 is not CSV.*LF or CR LF"),
        (f"a\n{'x' * 140_000}\n", "line 2 is not CSV.*JSON lines"),
    ],
)
def test_tables_that_cannot_be_read_say_why(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        read(tmp_path, content, "a.csv")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": "\\ud800"}', "[1, "])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_odd_json_is_named(tmp_path: Path, content: str, name: str) -> None:
    with pytest.raises(InputError, match="is not valid JSON"):
        read(tmp_path, content, name)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"\xff" * 20)
    with pytest.raises(InputError, match="cannot be read"):
        read_records(tmp_path / "a.csv.gz")


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("John Smith lives in naïve café", "John Smith lives in naïve café"),
        ("我 love 北京", "我love北京"),
        ("Владимир Путин сказал :", "Владимир Путин сказал:"),
        ("서울 에서 만나요", "서울 에서 만나요"),
        ("หลวงปู่ อยู่ ที่ กรุงเทพ", "หลวงปู่อยู่ที่กรุงเทพ"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("トヨタ は 2019 年 に", "トヨタは2019年に"),
        ("Mr . Smith 's 5 %", "Mr.Smith's 5%"),
        ("2 0 1 9 年 i P h o n e", "2019年iPhone"),
        ("مرحبا بالعالم", "مرحبا بالعالم"),
        ("e\u0301 a", "e\u0301 a"),
        ("I a m", "I a m"),
    ],
)
def test_words_of_every_script_are_joined_as_it_writes(tokens: str, text: str) -> None:
    made, places = join_tokens(tokens.split(" "))
    assert made == text
    assert [made[start:end] for start, end in places] == tokens.split(" ")


def test_blanks_as_tokens_are_the_only_ones() -> None:
    assert join_tokens(list("I am 나는"))[0] == "I am 나는"


def test_tokens_stand_where_the_text_has_them(tmp_path: Path) -> None:
    row: dict[str, Any] = {"text": "Mr. Smith，  hi", "tokens": ["Mr", ".", "Smith", "，", "hi"]}
    row["tags"] = ["O", "O", "B-PER", "O", "O"]
    (record,) = read(tmp_path, json.dumps(row, ensure_ascii=False), "a.jsonl")
    assert labels.tagged(record)[0] == "Mr. Smith，  hi"
    assert spans(record, {}) == [("Smith", "PER")]
    (other,) = read(tmp_path, json.dumps(row | {"text": "Smith"}, ensure_ascii=False), "a.jsonl")
    assert labels.tagged(other)[0] == "Mr.Smith，hi"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["①", "②", "²", "٣"], ["²", "٣", "①", "②"]),
        (["01", "1", "10", "9", "-1", "+2", "x"], ["-1", "01", "1", "+2", "9", "10", "x"]),
        (["9" * 5000, "1"], ["1", "9" * 5000]),
        (["1 ", "2"], ["1", "2"]),
        ([1, 0], ["0", "1"]),
    ],
)
def test_names_of_classes_have_one_order(names: list[Any], expected: list[str]) -> None:
    records = [Record({"label": name}, "a") for name in names]
    assert labels.classes(records) == labels.classes(records[::-1]) == expected


@pytest.mark.parametrize("name", ["", " ", "\t", None, 1.5, True])
def test_labels_that_are_none(name: Any) -> None:
    with pytest.raises(InputError, match="'label' is"):
        labels.classes([Record({"label": name}, "a"), Record({"label": "x"}, "a")])
