"""Classes of users' own: training, saving, resuming and reloading, by the Trainer that ``finetune`` uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flagai.data.prepare import bert
from flagai.data.prepare.batch import Batch
from flagai.data.tokenizer import Tokenizer
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import BertConfig, BertForSequenceLabeling
from flagai.model.config import ModelConfig
from flagai.train.objective import Objective
from flagai.train.recipe import Recipe
from flagai.train.records import Record
from flagai.train.run import TrainingRun
from flagai.train.trainer import Trainer
from tests import folders
from tests.parallel.ranks import on_ranks
from tests.train import data

pytest.importorskip("accelerate")
RECIPE = {"epochs": 3, "batch_tokens": 64, "learning_rate": 1e-2, "evaluate_every": 3, "save_every": 1}


class KilledError(Exception):
    """Stands for the end of the process."""


@dataclass(kw_only=True)
class BagConfig(ModelConfig):
    family, model_types, required = "bag", ("bag",), ("vocab_size", "width")
    vocab_size: int
    width: int


class Bag(BaseModel):
    """A mean of embeddings and a classifier; the table is tied to nothing, and a buffer is in the way."""

    config_class = BagConfig

    def __init__(self, config: BagConfig) -> None:
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.width)
        self.out = nn.Linear(config.width, 2)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **_: Any) -> dict[str, Any]:
        self.seen += len(input_ids)
        hidden = self.table(input_ids)
        logits = self.out(hidden.mean(1))
        found = {"logits": logits, "hidden_states": hidden}
        return found if labels is None else found | {"loss": F.cross_entropy(logits, labels)}


class OwnTagger(BertForSequenceLabeling):
    """A family's class with a layer more."""

    def __init__(self, config: BertConfig, width: int = 4) -> None:
        super().__init__(config)
        self.extra = nn.Linear(config.class_num or 0, width)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found = super().forward(*args, **kwargs)
        return found | (
            {"loss": found["loss"] + self.extra(found["logits"]).square().mean()} if "loss" in found else {}
        )


class Polarity(Objective):
    """Two classes, by no measure but the loss."""

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        texts = [record.text("text") for record in records]
        return bert.classification(tokenizer, texts, [record.value("label") for record in records], 32)


class Tags(Objective):
    """Tags of a class each."""

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        made = bert.collate(bert.rows(tokenizer, [record.text("text") for record in records]))
        return {**made, "labels": made["input_ids"] % 3}


def parts(kind: str, home: Path, **more: Any) -> TrainingRun:
    tokenizer = folders.tokenizer(home, "RoBERTa-base-ch")
    records = [Record(row, f"row {number}") for number, row in enumerate(data.ROWS["classification"])]
    recipe = Recipe(**RECIPE | more)
    torch.manual_seed(1)
    model: BaseModel
    if kind == "bag":
        model = Bag(BagConfig(vocab_size=21128, width=8))
        model.init_weights()
    else:
        model = OwnTagger(folders.model("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=3).config)
        model.init_weights()
    objective = (Polarity if kind == "bag" else Tags)("own", "bert", records, recipe)
    return TrainingRun(model, tokenizer, objective, records[4:], records[:4], recipe)


def train(kind: str, home: Path, out: Path, stop: int = 0, **more: Any) -> BaseModel:
    """Train on this rank."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    def watch(entry: dict[str, Any]) -> None:
        if entry["step"] == stop:
            raise KilledError

    AcceleratorState._reset_state(reset_partial_state=True)
    chosen = parts(kind, home, **more)
    torch.manual_seed(2)
    trainer = Trainer(chosen, Accelerator(cpu=True), out, {"kind": kind}, watch)
    trainer.resume()
    trainer.fit()
    return chosen.model


@pytest.mark.parametrize(("kind", "cls"), [("bag", Bag), ("tagger", OwnTagger)])
def test_a_class_of_ones_own_trains_saves_resumes_and_loads(tmp_path: Path, kind: str, cls: type[BaseModel]) -> None:
    train(kind, tmp_path, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(kind, tmp_path, tmp_path / "cut", stop=5)
    train(kind, tmp_path, tmp_path / "cut")
    whole, cut = (cls.from_pretrained(tmp_path / name) for name in ("whole", "cut"))
    assert type(cut) is cls
    first = parts(kind, tmp_path).model.state_dict()
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, cut.get_parameter(name)), name
    assert any(not torch.equal(parameter, first[name]) for name, parameter in whole.named_parameters())
    assert (tmp_path / "whole" / "vocab.txt").is_file()


def test_adapters_in_a_class_of_ones_own_are_merged(tmp_path: Path) -> None:
    from flagai.train.engine import TrainingEngine

    accelerate = pytest.importorskip("accelerate")
    chosen = parts("tagger", tmp_path)
    model, batch = chosen.model, chosen.objective.batch(chosen.tokenizer, chosen.train[:4], 1)
    model.add_adapter("mine", 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = TrainingEngine(accelerate.Accelerator(cpu=True), model, optimizer)
    engine.accelerator.backward(engine.model(**batch)["loss"])
    engine.optimizer.step()
    engine.write(tmp_path / "mine")
    again = OwnTagger.from_pretrained(tmp_path / "mine")
    torch.testing.assert_close(again(**batch)["loss"], model.eval()(**batch)["loss"], atol=1e-4, rtol=1e-4)
    assert type(again) is OwnTagger


def own_class_of_a_sharded_model() -> str:
    """The class that FSDP2 put before ours is not taken for it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = Bag(BagConfig(vocab_size=10, width=8))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    assert type(model) is not Bag
    return model.own_class.__qualname__


def test_a_sharded_class_of_ones_own_is_known() -> None:
    assert on_ranks(2, own_class_of_a_sharded_model) == ["Bag", "Bag"]
