"""Reading data files: every form, and errors with the line and the cure."""

import gzip
from pathlib import Path

import pytest

from flagai.data.prepare.labels import Span
from flagai.errors import InputError
from flagai.train import labels
from flagai.train.recipe import Recipe
from flagai.train.records import read_records


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_lines_csv_and_gzip_give_the_same(tmp_path: Path) -> None:
    lines = '{"text": "你好，世界", "label": "a"}\n\n{"text": "再见", "label": "b"}\n'
    plain = read_records(put(tmp_path, "a.jsonl", lines))
    zipped = read_records(put(tmp_path, "a.jsonl.gz", gzip.compress(lines.encode())))
    table = read_records(put(tmp_path, "a.csv", '\ufefftext,label\r\n"你好，世界",a\r\n再见,b\r\n'))
    assert [r.fields for r in plain] == [r.fields for r in zipped] == [r.fields for r in table]
    assert plain[1].place.endswith("a.jsonl, line 3")


def test_columns_are_renamed(tmp_path: Path) -> None:
    (record,) = read_records(put(tmp_path, "a.jsonl", '{"abstract": "x"}'), {"text": "abstract"})
    assert record.text("text") == "x"
    with pytest.raises(InputError, match=r"no column 'body', only 'abstract'.*'text': --column text=NAME"):
        read_records(tmp_path / "a.jsonl", {"text": "body"})


def test_conll_becomes_text_and_entities(tmp_path: Path) -> None:
    content = "我 O\n在 O\n北 B-LOC\n京 I-LOC\n\nJohn B-PER\nSmith I-PER\nsmiled O\n"
    chinese, english = read_records(put(tmp_path, "a.conll", content))
    assert labels.tagged(chinese) == ("我在北京", [Span(2, 3, "LOC")])
    assert labels.tagged(english) == ("John Smith smiled", [Span(0, 9, "PER")])
    assert english.place.endswith("line 6")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", "", "no data"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', "line 2 is not valid JSON.*Each line must be one object"),
        ("a.jsonl", "[1]", "line 1 is of type list"),
        ("a.jsonl", "二\n一".encode("gb18030"), "line 1 is not UTF-8.*iconv"),
        ("a.csv", 'text,label\na,b\na,b,"c\nd"\n', "line 3 has 3 columns, the header 2.*quotes"),
        ("a.csv", "text,label\na,b\na,b,c\n", "line 3 has 3 columns"),
        ("a.csv", "text,label,text\na,b,c\n", "line 1: two columns are called 'text'"),
        ("a.csv", "text\n你".encode("utf-16"), "line 1 is not UTF-8.*iconv -f UTF-16 -t UTF-8[.]"),
        ("a.csv", 'text\nb\n"a\nb\nc\n', "line 3 is not CSV.*quotes"),
        ("a.csv", 'text\n"a"b\n', "line 2 is not CSV.*quotes"),
        ("a.conll", "我 O\n在\n", "line 2 is '在'; expected a token and its tag"),
        ("a.xlsx", "x", "no known form.*jsonl"),
        ("a.jsonl.gz", "x", "cannot be read"),
    ],
)
def test_broken_files_are_named_with_line_and_cure(
    tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    with pytest.raises(InputError, match=f"(?s){expected}"):
        read_records(put(tmp_path, name, content))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("task", "line", "expected"),
    [
        (
            "title-generation",
            '{"text": "a", "headline": "b"}',
            r"line 1: there is no column 'title'.*--column title=NAME",
        ),
        ("title-generation", '{"text": " ", "title": "b"}', "line 1: 'text' is ' '"),
        ("classification", '{"text": "a", "label": "x"}', "nothing to tell apart"),
        ("classification", '{"text": "a", "label": 1.5}', "'label' is 1.5"),
        ("ner", '{"text": "北京", "tags": ["O"]}', "2 characters have 1 tags"),
        (
            "ner",
            '{"text": "北京", "tags": ["O", "E-LOC"]}',
            "line 1: The label 'E-LOC' ends or continues an entity that no",
        ),
        ("ner", '{"text": "北京", "tags": ["O", "B-"]}', "'B-' is none of O, B-TYPE, I-TYPE"),
        ("ner", '{"text": "北京", "tags": ["O", "O"]}', "No text .* has an entity"),
        ("translation", '{"text": "a"}', "no fine-tuning for 'translation'.*poetry"),
    ],
)
def test_rows_that_a_task_cannot_use(tmp_path: Path, task: str, line: str, expected: str) -> None:
    from flagai.train.tasks import objective_for

    records = read_records(put(tmp_path, "a.jsonl", line))
    with pytest.raises(InputError, match=f"(?s){expected}"):
        objective_for(task, "bert", records, Recipe())


@pytest.mark.torch
@pytest.mark.parametrize(
    ("task", "lines", "expected"),
    [
        (
            "classification",
            ['{"text": "a", "label": "x"}', '{"text": "b", "label": "y"}', '{"text": "a", "label": "z"}'],
            "the label 'z' is unknown.*x, y",
        ),
        (
            "ner",
            [*['{"text": "北京", "tags": ["B-LOC", "I-LOC"]}'] * 2, '{"text": "李", "tags": ["B-PER"]}'],
            "the type 'PER' is unknown.*LOC",
        ),
    ],
)
def test_an_unknown_label_is_named_with_its_line_before_anything_is_trained(
    tmp_path: Path, task: str, lines: list[str], expected: str
) -> None:
    from flagai.train.finetune import finetune
    from tests.train import data

    home = data.home(tmp_path, "RoBERTa-base-ch")
    train, valid = put(tmp_path, "a.jsonl", "\n".join(lines[:2])), put(tmp_path, "b.jsonl", "\n".join(lines[1:]))
    with pytest.raises(InputError, match=rf"b\.jsonl, line 2: {expected}"):
        finetune(task, "RoBERTa-base-ch", train, tmp_path / "out", valid=valid, model_dir=home)
    assert not (tmp_path / "out").exists()


@pytest.mark.torch
def test_a_label_that_chance_puts_into_the_held_out_part_is_known(tmp_path: Path) -> None:
    from flagai.train.finetune import finetune
    from tests.train import data

    home = data.home(tmp_path, "RoBERTa-base-ch")
    rows = "\n".join(f'{{"text": "a{n}", "label": "{n}"}}' for n in range(6))  # each label once
    recipe = Recipe(epochs=1, held_out=0.4)
    finetune("classification", "RoBERTa-base-ch", put(tmp_path, "a.jsonl", rows), tmp_path / "out", model_dir=home,
             recipe=recipe)  # fmt: skip


def test_numbers_as_labels_keep_their_order(tmp_path: Path) -> None:
    lines = "\n".join(f'{{"text": "a", "label": {n}}}' for n in (10, 2, 0))
    assert labels.classes(read_records(put(tmp_path, "a.jsonl", lines))) == ["0", "2", "10"]


@pytest.mark.torch
def test_a_family_that_is_not_trained_for_a_task(tmp_path: Path) -> None:
    from flagai.train.tasks import objective_for

    records = read_records(put(tmp_path, "a.jsonl", '{"text": "a", "label": 1}'))
    with pytest.raises(InputError, match="trained with models of bert and glm, not of gpt2"):
        objective_for("classification", "gpt2", records, Recipe())
