"""GLM's separator means what it means in the original, with memory and without."""

import json
from pathlib import Path

import pytest
import torch

from flagai.model.glm_backbone import separator_or_matrix

ROWS = json.loads((Path(__file__).parents[1] / "golden" / "inputs_glm_sep_mask.json").read_text(encoding="utf-8"))[
    "rows"
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['sep']} after {row['memory']}")
def test_who_sees_whom(row):
    expected = torch.tensor(row["mask"]).bool()
    length, memory = row["seq_len"], row["memory"]
    mask = separator_or_matrix(torch.tensor(row["sep"]), len(row["sep"]), length, memory)
    assert torch.equal(mask.dense(length, memory + length, torch.device("cpu")), expected)
