"""LoRA: only adapters are trained; merged, the model is a plain one that answers alike."""

from pathlib import Path

import pytest
import torch

from flagai.errors import ConfigError
from flagai.train import lora
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from tests import tiny
from tests.train import data

pytest.importorskip("peft")


@pytest.mark.parametrize("name", ["BertForSequenceLabeling", "GLMForSeq2Seq", "GPT2Model", "T5Model"])
def test_merging_keeps_the_answers_and_unmerging_restores_the_weights(name: str) -> None:
    model = tiny.build(name).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lora.add_lora(model, rank=2)
    batch = tiny.batch(name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.5)
        apart = model(**batch)["logits"]
        lora.merge(model)
        together = model(**batch)["logits"]
        plain = tiny.build(name).eval()
        plain.load_state_dict(lora.plain(model.state_dict()))
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(plain(**batch)["logits"], together)
        lora.unmerge(model)
    after = lora.plain(model.state_dict())
    assert after.keys() == before.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, atol=1e-5, rtol=1e-5)


def test_only_adapters_and_the_new_head_change(tmp_path: Path) -> None:
    from flagai.checkpoint.reader import open_checkpoint

    home = data.home(tmp_path, "RoBERTa-base-ch")
    recipe = Recipe(epochs=1, batch_tokens=128, learning_rate=1e-2, lora_rank=2)
    finetune("ner", "RoBERTa-base-ch", data.write(tmp_path, "ner"), tmp_path / "mine", model_dir=home, recipe=recipe)
    from flagai.model.bert_model import BertForSequenceLabeling, BertModel

    backbone = BertModel.from_pretrain(home, "RoBERTa-base-ch")
    trained = BertForSequenceLabeling.from_pretrain(tmp_path, "mine").model
    changed = {
        name
        for (name, one), other in zip(backbone.named_parameters(), trained.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    assert changed
    assert all(name.endswith(("attention.q.weight", "attention.v.weight")) for name in changed)
    assert not any("lora" in name for name in open_checkpoint(tmp_path / "mine"))


def test_without_the_library_the_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'flagai-lm\[lora\]'"):
        lora.add_lora(tiny.build("GPT2Model"), rank=2)
