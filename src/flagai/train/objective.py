"""What training aims at: how records become batches, and which metric says that a model is better."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from flagai.data.prepare.batch import Batch
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.families.family import TrainingProtocol, family_named
from flagai.model.base_model import BaseModel
from flagai.model.predictor.predictor import Predictor
from flagai.train.recipe import Recipe
from flagai.train.records import Record


class Objective:
    """Base of the objectives.

    Class variables: ``columns`` that a record needs; ``metric``, the measure that says which model is the best, the
    larger the better (``-loss``: the smaller the loss); ``packable``, whether encoders may train without padding;
    ``limits``, the settings that cut records; ``layout`` of the result's tensors.

    Args:
        task: the task's name.
        family: the model's family.
        records: the training data, from which labels are collected.
        recipe: how to train.

    Raises:
        InputError: a record cannot be used, or models of the family are not trained.
    """

    columns: ClassVar[tuple[str, ...]] = ("text",)
    metric: ClassVar[str] = "-loss"
    packable: ClassVar[bool] = False
    limits: ClassVar[tuple[str, ...]] = ("max_length",)
    layout: ClassVar[str] = "flagai"

    def __init__(self, task: str, family: str, records: Sequence[Record], recipe: Recipe) -> None:
        self.task, self.recipe, self.family = task, recipe, family
        _ = self.training
        for record in records:
            self.check(record)

    @property
    def training(self) -> TrainingProtocol:
        """How the family is trained; looked up, because its functions cannot be sent to other processes."""
        found = family_named(self.family).training
        if found is None:
            raise InputError(f"There is no fine-tuning for models of {self.family}.")
        return found

    def check(self, record: Record) -> None:
        """Refuse a record that the task cannot use, with an InputError."""
        for column in self.columns:
            record.text(column)

    def check_labels(self, record: Record) -> None:
        """Refuse a record whose labels the training data does not have, with an InputError."""

    def settings(self) -> dict[str, Any]:
        """Settings of the configuration that the model needs for this data."""
        return {}

    def names(self) -> list[str]:
        """The names of the model's classes, if it has some."""
        return []

    def texts(self, record: Record) -> tuple[str, ...]:
        """All text of a record, for its length."""
        return tuple(record.text(column) for column in self.columns)

    def unlearned(self, tokenizer: Tokenizer, records: Sequence[Record]) -> str:
        """What the records have that training passes over, and the cure, for a warning; empty if there is nothing."""
        texts = [self.texts(record) for record in records]
        ids = iter(tokenizer.encode_many([text for each in texts for text in each]))
        count = sum(self.is_cut(tokenizer, [len(next(ids)) for _ in each]) for each in texts)
        limits = " and ".join(f"{name}={getattr(self.recipe, name)}" for name in self.limits)
        said = f"{count} of {len(texts)} records are cut to {limits} tokens: raise it, or shorten the texts."
        return said if count else ""

    def is_cut(self, tokenizer: Tokenizer, counts: Sequence[int]) -> bool:
        """Whether a record whose texts have these numbers of tokens has more than training reads."""
        return sum(counts) + self.training.specials(tokenizer, len(counts)) > self.recipe.max_length

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        """What the model's ``forward`` takes, with the labels; the seed is of what is masked."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch, tokenizer: Tokenizer) -> torch.Tensor:
        """The loss of a batch, a scalar; the model may be wrapped for several processes."""
        loss: torch.Tensor = model(**batch)["loss"]
        return loss

    def files(self, model: BaseModel, tokenizer: Tokenizer) -> dict[str, bytes]:
        """What belongs beside the model besides the tokenizer's files, by name."""
        return {}

    def metrics(self, run: Predictor, records: Sequence[Record]) -> dict[str, float]:
        """Metrics on held-out data, besides the loss."""
        return {}

    def final_metrics(self, run: Predictor, records: Sequence[Record]) -> dict[str, float]:
        """Metrics that take long, of the best model at the end."""
        return {}
