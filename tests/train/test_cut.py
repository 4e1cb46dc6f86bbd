"""Records that are cut are counted, and a head of another number of classes has a way out."""

import json
import re

import pytest

from flagai.auto_model.auto_loader import AutoLoader
from flagai.convert import convert
from flagai.data.tokenizer import Tokenizer
from flagai.errors import LoadError
from flagai.train.recipe import Recipe
from flagai.train.records import read_records
from flagai.train.tasks import objective_for
from tests import folders
from tests.train import data
from tests.train.test_finetune import RUNS

FAMILIES = {"RoBERTa": "bert", "GLM": "glm", "GPT2": "gpt2", "T5": "t5"}


def counted(objective, tokenizer, record):
    """How many tokens a record has as training reads it."""
    batch = objective.batch(tokenizer, [record], 0)
    ids = [batch[name] for name in ("input_ids", "labels") if name in batch and batch[name].dim() == 2]
    return [tuple(values.shape) for values in ids]


@pytest.mark.parametrize(("task", "model"), [run for run in RUNS if not run[0].startswith("ner")])
def test_records_that_are_cut_are_counted(task, model, tmp_path, vocabularies_home):
    tokenizer = Tokenizer.from_folder(vocabularies_home / model)
    longer = {"text", "title", "text1", "text2"}
    rows = [
        {key: value * times if key in longer else value for key, value in row.items()}
        for times, row in enumerate(data.ROWS[task][:3], start=2)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = read_records(tmp_path / "rows.jsonl", None)
    family, counts = FAMILIES[model.partition("-")[0]], set()
    for length in (*range(8, 32), 40, 80):
        for target in (8, 17, 80):
            objective = objective_for(task, family, records, Recipe(max_length=length, max_target_length=target))
            whole = objective_for(task, family, records, Recipe(max_length=200, max_target_length=200))
            right = sum(counted(objective, tokenizer, one) != counted(whole, tokenizer, one) for one in records)
            found = objective.unlearned(tokenizer, records)
            if task == "masklm" and family == "glm":  # spans are drawn, and their number changes the width
                right = sum(len(tokenizer.encode(one.text("text"))) + 2 > length for one in records)
            assert (int(found.split()[0]) if found else 0) == right, (length, target, found)
            assert not found or re.search(rf"of 3 records are cut to max_length={length}\b.*raise", found)
            counts.add(right)
    assert 0 in counts
    assert len(counts) > 1


def test_a_head_of_another_number_of_classes_has_a_cure_that_works(tmp_path):
    for name, kind, backbone in (
        ("RoBERTa-base-ch", "BertForClsClassifier", "BertModel"),
        ("GLM-large-ch", "GLMForSequenceClassification", "GLMModel"),
    ):
        folders.write(tmp_path, name, kind, class_num=3)
        options = {"model_dir": tmp_path, "device": "cpu", "class_num": 5, "fine_tuned": False}
        with pytest.raises(LoadError, match=f"flagai convert .* BACKBONE --model-class {backbone}"):
            AutoLoader("classification", name, **options)
        convert(tmp_path / name, tmp_path / "BACKBONE", model_class=backbone)
        assert AutoLoader("classification", "BACKBONE", **options).get_model().config.class_num == 5
        for path in (tmp_path / "BACKBONE").iterdir():
            path.unlink()
