"""LoRA: only adapters are trained; merged, the model is a plain one that answers alike; they stand beside it."""

from pathlib import Path

import pytest
import torch

from flagai.model.bert_model import BertForSequenceLabeling, BertModel
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from tests import tiny
from tests.train import data


@pytest.mark.parametrize("name", ["BertForSequenceLabeling", "GLMForSeq2Seq", "GPT2Model", "T5Model"])
def test_merging_keeps_the_answers_and_unmerging_restores_the_weights(name: str, tmp_path: Path) -> None:
    model = tiny.build(name).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.add_adapter("new", rank=2)
    batch = tiny.batch(name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(".b"):
                parameter.normal_(std=0.5)
        apart = model(**batch)["logits"]
        assert not torch.equal(apart, tiny.build(name)(**batch)["logits"])
        model.merge_adapter()
        together = model(**batch)["logits"]
        model.save_pretrained(tmp_path)
        plain = tiny.CLASSES[name].from_pretrained(tmp_path)
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(plain(**batch)["logits"], together)
        model.unmerge_adapter()
        assert torch.equal(model(**batch)["logits"], apart)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_only_adapters_and_the_new_head_change(tmp_path: Path) -> None:
    from flagai.checkpoint.reader import open_checkpoint

    home = data.home(tmp_path, "RoBERTa-base-ch")
    recipe = Recipe(epochs=1, batch_tokens=128, learning_rate=1e-2, lora_rank=2)
    finetune("ner", "RoBERTa-base-ch", data.write(tmp_path, "ner"), tmp_path / "mine", model_dir=home, recipe=recipe)
    backbone = BertModel.from_pretrain(home, "RoBERTa-base-ch")
    trained = BertForSequenceLabeling.from_pretrain(tmp_path, "mine")
    changed = {
        name
        for (name, one), other in zip(backbone.named_parameters(), trained.model.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    assert changed
    assert all(name.endswith(("attention.q.weight", "attention.v.weight")) for name in changed)
    assert not any("lora" in name or "adapter" in name for name in open_checkpoint(tmp_path / "mine"))
    # The adapter alone, with the head, makes the base model the same one.
    base = BertForSequenceLabeling.from_pretrain(
        home, "RoBERTa-base-ch", class_num=trained.config.class_num, adapter=tmp_path / "mine" / "adapter"
    )
    ids = torch.tensor([[2, 5, 9, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(base(ids)["logits"], trained(ids)["logits"], atol=1e-5, rtol=1e-5)
