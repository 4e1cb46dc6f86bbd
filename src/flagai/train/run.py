"""A training run: what is trained and with what, its batches, and what to lower if memory runs out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch

from flagai.checkpoint.out_of_memory import memory_advised
from flagai.data.prepare.batch import Batch
from flagai.data.tokenizer import Tokenizer
from flagai.model.base_model import BaseModel
from flagai.train.batches import MakeBatch, batches, load_batches, packed, placed, target_count
from flagai.train.objective import Objective
from flagai.train.recipe import Recipe
from flagai.train.records import Record

Step = list[list[int]]
_EVALUATION_FACTOR = 2  # without gradients, a batch takes less memory


@dataclass(frozen=True)
class TrainingRun:
    """What is trained, and with what."""

    model: BaseModel  # in float32
    tokenizer: Tokenizer
    objective: Objective
    train: Sequence[Record]
    valid: Sequence[Record]  # held-out data
    recipe: Recipe
    packing: bool = False  # whether encoders train without padding

    def lengths(self, records: Sequence[Record]) -> list[int]:
        """About how many tokens each record has as an input."""
        most = self.recipe.max_length + self.recipe.max_target_length
        whole = ["\n".join(self.objective.texts(record)) for record in records]
        return [min(most, len(encoding.ids) + 3) for encoding in self.tokenizer.encode_batch(whole)]

    def steps(self, lengths: Sequence[int], epoch: int, rank: int, ranks: int) -> list[Step]:
        """The steps of an epoch for one of ``ranks`` processes, by :meth:`lengths`; each has batches of its own."""
        accumulate = self.recipe.accumulate
        found = batches(lengths, self.recipe.batch_tokens, self._seed(epoch, 0), padded=not self.packing)
        # The last step is filled up with the first batches: no text is left out.
        found += [found[place % len(found)] for place in range(-len(found) % (accumulate * ranks))]
        own = found[rank::ranks]
        return [own[start : start + accumulate] for start in range(0, len(own), accumulate)]

    def batches(self, steps: Sequence[Step], epoch: int, workers: int) -> Iterator[Batch]:
        """The batches of an epoch's steps, one after the other, made by ``workers`` processes (0: this one)."""
        specs = [(indices, self._seed(epoch, indices[0])) for step in steps for indices in step]
        return load_batches(self._maker(self.train), specs, workers)

    def held_out_batches(self) -> Iterator[Batch]:
        """The batches of the held-out data."""
        most = _EVALUATION_FACTOR * self.recipe.batch_tokens
        for indices in batches(self.lengths(self.valid), most, 0, shuffled=False, padded=not self.packing):
            yield self._maker(self.valid)(indices, self.recipe.seed)

    @torch.no_grad()
    def held_out_loss(
        self, model: BaseModel, device: torch.device, precision: Callable[[], AbstractContextManager[None]]
    ) -> float:
        """The mean loss per target of the held-out data.

        Args:
            model: the model, in evaluation mode.
            device: where it is.
            precision: gives the precision in which a batch is computed.
        """
        total = count = 0.0
        for made in self.held_out_batches():
            targets = target_count(made)
            with precision():
                total += float(self.objective.loss(model, placed(made, device), self.tokenizer)) * targets
            count += targets
        return total / max(1.0, count)

    def _maker(self, records: Sequence[Record]) -> MakeBatch:
        return partial(_batch, self.objective, self.tokenizer, records, self.packing)

    def _seed(self, epoch: int, number: int) -> int:
        return (self.recipe.seed * 1_000_003 + epoch) * 1_000_003 + number


def _batch(
    objective: Objective, tokenizer: Tokenizer, records: Sequence[Record], packing: bool, indices: list[int], seed: int
) -> Batch:
    """A batch, by what other processes can be sent: not the model."""
    batch = objective.batch(tokenizer, [records[index] for index in indices], seed)
    return packed(batch) if packing else batch


def memory_advice(recipe: Recipe) -> AbstractContextManager[None]:
    """Where the body runs out of memory, raise an InputError that says what to lower in the recipe."""
    whole = not recipe.lora_rank and not recipe.fsdp
    cures = {
        f"lower --batch-tokens (now {recipe.batch_tokens}) and raise --accumulate ({recipe.accumulate}) by the same "
        "factor to learn alike": True,
        f"lower --max-length (now {recipe.max_length})": True,
        "--checkpoint-activations": not recipe.checkpoint_activations,
        "--lora 8 (adapters only)": whole,
        "--fsdp over several GPUs": whole,
        "--precision bf16": recipe.precision != "bf16",
        "a smaller model": True,
    }

    def advice(first: str) -> str:
        fitting = [cure for cure, fits in cures.items() if fits]
        fitting = ["--workers 0 (or fewer)"] if "DataLoader worker" in first else fitting
        return f"Out of memory ({first}). Try one of: {'; '.join(fitting)}."

    return memory_advised(advice)
