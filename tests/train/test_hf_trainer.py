"""Our models inside of transformers' Trainer, unchanged."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny

pytest.importorskip("accelerate")


def train(name: str, folder: Path, **options: Any) -> tuple[torch.nn.Module, list[float]]:
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(1)
    model = tiny.build(name)
    batch = tiny.batch(name)
    rows = next(iter(batch.values())).shape[0]
    examples = [{key: value[row] for key, value in batch.items()} for row in range(rows)] * 8
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=3, learning_rate=1e-2, logging_steps=1, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, remove_unused_columns=False, lr_scheduler_type="constant", **options,
    )  # fmt: skip

    def collate(picked: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {key: torch.stack([entry[key] for entry in picked]) for key in picked[0]}

    trainer = Trainer(model=model, args=arguments, train_dataset=examples, data_collator=collate)
    trainer.train()
    model.save_pretrained(folder / "saved")
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("GPT2Model", "T5Model")]


@pytest.mark.parametrize("name", ["BertForSequenceLabeling", "GLMForSeq2Seq", *SLOW])
def test_the_trainer_trains_and_saves(name: str, tmp_path: Path) -> None:
    _, losses = train(name, tmp_path, per_device_train_batch_size=4)
    assert losses[-1] < losses[0]
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_accumulated_losses_are_means(tmp_path: Path) -> None:
    _, whole = train("GPT2Model", tmp_path / "a", per_device_train_batch_size=8)
    _, parts = train("GPT2Model", tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert parts[0] == pytest.approx(whole[0], rel=0.2)  # not four times as large
