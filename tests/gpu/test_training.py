"""Training on an accelerator: gradients of packed texts, compiled blocks, batches on their way to the device."""

from typing import Any

import numpy
import pytest
import torch

from flagai.model.layer import PackedRow
from flagai.train.batches import load_batches
from tests.tiny import build, ids

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
# Texts of every class of lengths of our own kernels, and one that is too long for them.
ROWS = {"short": PackedRow((17, 7, 5, 3, 3, 1)), "mixed": PackedRow((128, 65, 64, 33, 9)), "long": PackedRow((129, 5))}
# Heads of 8, which flash attention for packed texts takes.
WIDE = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "class_num": 3,
    "max_position_embeddings": 160,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def gradients(model: Any, half: bool, **arguments: Any) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        model(**arguments)["loss"].backward()
    return {name: entry.grad.float() for name, entry in model.named_parameters() if entry.grad is not None}


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_gradients_of_packed_texts_equal_those_of_padded_ones(row: PackedRow, compiled: bool) -> None:
    model = build("BertForSequenceLabeling", **WIDE).cuda().train()
    tokens = ids(31, 1, row.total)
    labels = tokens % 3
    padded = {
        "input_ids": row.pad(tokens).cuda(),
        "attention_mask": row.valid().long().cuda(),
        "labels": row.pad(labels).masked_fill(~row.valid(), -100).cuda(),
    }
    exact = gradients(model, half=False, **padded)
    near = gradients(model, half=True, **padded)
    if compiled:
        from flagai.model.block.compile import compile_blocks

        compile_blocks(model)
    found = gradients(model, half=True, input_ids=tokens.cuda(), labels=labels.cuda(), lengths=row)
    assert found.keys() == exact.keys()
    for name, expected in exact.items():
        scale = expected.abs().max().clamp_min(1e-3)
        rounding = float((near[name] - expected).abs().max() / scale)
        assert float((found[name] - expected).abs().max() / scale) <= 2 * rounding + 0.03, name


def test_batches_arrive_as_they_were_made() -> None:
    def make(indices: list[int], seed: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.from_numpy(numpy.full((64, 4096), indices[0] + seed))}

    specs = [([number], 7) for number in range(40)]
    arrived = [batch["input_ids"].to("cuda", non_blocking=True) for batch in load_batches(make, specs, workers=4)]
    torch.cuda.synchronize()
    assert [(int(batch.min()), int(batch.max())) for batch in arrived] == [(n + 7, n + 7) for n in range(40)]
