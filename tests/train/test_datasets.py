"""Parquet files and data sets of Hugging Face's ``datasets`` as data."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from flagai.errors import InputError
from flagai.evaluation.evaluate import evaluate
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from flagai.train.records import read_records
from flagai.train.run_file import read_run
from tests.train import data

TAGS = ["O", "B-LOC", "I-LOC"]


def made() -> datasets.Dataset:
    """The rows of tests.train.data with tags as numbers, as on Hugging Face's hub."""
    rows = [
        {"tokens": list(row["text"]), "tags": [TAGS.index(tag) for tag in row["tags"]], "kind": i % 2}
        for i, row in enumerate(data.ROWS["ner"])
    ]
    labels = datasets.ClassLabel(names=TAGS)
    features = {"tokens": datasets.List(datasets.Value("string")), "tags": datasets.List(labels)}
    return datasets.Dataset.from_list(
        rows, features=datasets.Features({**features, "kind": datasets.ClassLabel(names=["even", "odd"])})
    )


def fields(source: Any, **columns: str) -> list[dict[str, Any]]:
    return [dict(record.fields) for record in read_records(source, columns or None)]


def test_all_forms_give_the_same_rows(tmp_path: Path) -> None:
    given = made()
    given.to_parquet(tmp_path / "a.parquet")
    given.save_to_disk(str(tmp_path / "folder"))
    wanted = [
        {"tokens": list(row["text"]), "tags": row["tags"], "kind": ("even", "odd")[i % 2]}
        for i, row in enumerate(data.ROWS["ner"])
    ]
    assert fields(given) == fields(tmp_path / "a.parquet") == fields(tmp_path / "folder") == fields(wanted) == wanted
    assert fields(given, label="kind")[1]["label"] == "odd"
    assert read_records(tmp_path / "a.parquet")[2].place == f"{tmp_path / 'a.parquet'}, row 3"


def test_a_data_set_trains_and_is_evaluated(tmp_path: Path) -> None:
    data.home(tmp_path, "RoBERTa-base-ch")
    recipe = Recipe(epochs=1, batch_tokens=200, max_length=40)
    made().save_to_disk(str(tmp_path / "folder"))
    for name, source in (("one", made()), ("two", tmp_path / "folder")):
        finetune("ner", "RoBERTa-base-ch", source, tmp_path / name, model_dir=tmp_path, recipe=recipe)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    run = read_run(tmp_path / "one" / "recipe.toml")
    assert "data" not in run
    assert len(run["data_sha256"]) == 64
    assert evaluate("ner", tmp_path / "one", made()).texts == 24


def test_what_is_no_data_set(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": made(), "test": made()}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(InputError, match=r"has the splits test, train. Name one: .*splits/test"):
        read_records(tmp_path / "splits")
    assert len(read_records(tmp_path / "splits" / "train")) == 24
    with pytest.raises(InputError, match="none that datasets' save_to_disk wrote"):
        read_records(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"a.parquet is not a Parquet file"):
        read_records(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"There is no file .*b.parquet"):
        read_records(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="Row 1 of the data is 3; expected a mapping"):
        read_records([3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="can be read only once"):
        read_records(row for row in data.ROWS["ner"])
    with pytest.raises(InputError, match="the data set has no data"):
        read_records([])
