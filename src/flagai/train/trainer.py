"""The training loop, on Hugging Face Accelerate: one process or many, any precision that its configuration names."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flagai.data.prepare.batch import Batch
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.layer import PackedRow
from flagai.model.layer.packed_row import on_device
from flagai.model.meta_init import gc_frozen
from flagai.model.predictor.predictor import Predictor
from flagai.train.batches import batches, packed
from flagai.train.engine import Engine, ShardedEngine
from flagai.train.feed import feed, workers_for
from flagai.train.log import Entry
from flagai.train.memory import memory_advice
from flagai.train.objective import Objective, weight
from flagai.train.open_step import PendingStep, towards_host
from flagai.train.output import put_files
from flagai.train.pace import Pace
from flagai.train.recipe import Recipe
from flagai.train.records import Record
from flagai.train.state import Progress, States

Watch = Callable[[Entry], None]
Step = list[list[int]]
# Writes what belongs to a finished model into its folder.
Finish = Callable[[Path], None]
_EVALUATION_FACTOR = 2


@dataclass(frozen=True)
class TrainingRun:
    """What is trained, and with what.

    Args:
        model: the model, in float32.
        tokenizer: its tokenizer.
        objective: what training aims at.
        train: the data.
        valid: held-out data.
        recipe: how to train.
        packing: whether encoders train without padding.
    """

    model: BaseModel
    tokenizer: Tokenizer
    objective: Objective
    train: Sequence[Record]
    valid: Sequence[Record]
    recipe: Recipe
    packing: bool = False


class Trainer:
    """Trains a model and keeps the best one.

    Args:
        run: what is trained, and with what.
        accelerator: Accelerate's.
        out: the folder of the best model; until the run is finished, everything is in ``OUT.training`` beside it.
        settings: what describes the run, for its checkpoints.
        watch: is told every step and every evaluation.
        overwrite: whether a model in ``out`` may be replaced.
    """

    def __init__(
        self,
        run: TrainingRun,
        accelerator: Any,
        out: Path,
        settings: dict[str, Any],
        watch: Watch | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        self.run, self.accelerator, self.watch = run, accelerator, watch
        self.recipe = run.recipe
        self._vocabulary = run.tokenizer.description.portable_files()
        self.lengths = _lengths(run.tokenizer, run.objective, run.train, self.recipe)
        self.epochs = [self._plan(epoch) for epoch in range(self.recipe.epochs)]
        self.steps = sum(map(len, self.epochs))
        kind = ShardedEngine if run.model.sharding is not None else Engine
        optimizer = _optimizer(run.model, self.recipe)
        self.engine = kind(accelerator, run.model, optimizer, adapters=bool(self.recipe.lora_rank))
        self.model, self.optimizer = self.engine.model, self.engine.optimizer
        self.states = States(out, accelerator, self.engine, settings, overwrite=overwrite)
        self.log = self.states.log
        self.progress = Progress()
        self.pace = Pace(self.recipe.save_minutes)
        self._due = False
        self._open: PendingStep | None = None
        self._clock = time.perf_counter()

    # -- the loop -------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Lock the folder and go to the newest checkpoint, if there is one.

        Raises:
            InputError: the folder holds something else, or the checkpoint is of another run.
            CheckpointError: the checkpoint is damaged.
        """
        with memory_advice(self.recipe):
            self.progress = self.states.load()

    def fit(self, finish: Finish | None = None) -> Progress:
        """Train from here to the end, then exchange the best model for what is in the folder of the result.

        Args:
            finish: writes what belongs to a finished model into its folder, before the exchange.

        Raises:
            InputError: the loss is no number any more, or the memory is too small.
            CheckpointError: a checkpoint cannot be written.
        """
        try:
            with gc_frozen(), memory_advice(self.recipe):
                self._fit()
                self.states.publish(self.progress.best_step, finish or (lambda _: None))
            return self.progress
        finally:
            self.states.release()

    def _fit(self) -> None:
        done, every = self.progress.step, self.recipe.evaluate_every
        self._clock = time.perf_counter()
        self.pace = Pace(self.recipe.save_minutes)
        for epoch, steps in enumerate(self.epochs):
            todo, done = range(min(done, len(steps)), len(steps)), max(0, done - len(steps))
            made = self._feed([steps[place] for place in todo], epoch)
            for place in todo:
                # Before a step: a run may have been cut off behind its last evaluation.
                if self._out_of_patience():
                    return
                self._step([next(made) for _ in steps[place]])
                if (self.progress.step % every == 0) if every else place + 1 == len(steps):
                    self._evaluate()
                elif self._due or (self.recipe.save_every and self.progress.step % self.recipe.save_every == 0):
                    self._save()
        if self.progress.evaluated < self.progress.step and not self._out_of_patience():
            self._evaluate()
        self._close()

    def _out_of_patience(self) -> bool:
        return bool(self.recipe.patience) and self.progress.evaluations_without_gain >= self.recipe.patience

    def _step(self, step: Sequence[Batch]) -> None:
        rate = self.recipe.rate(self.progress.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.model.train()
        losses, tokens = [], 0
        for number, made in enumerate(step):
            tokens += made["input_ids"].numel()
            batch = self._placed(made)
            last = number + 1 == len(step)
            with contextlib.nullcontext() if last else self.engine.local_gradients():
                loss = self.model(**batch)["loss"]
                self.accelerator.backward(loss)
            losses.append(loss.detach().float())
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        mean = torch.stack(losses).mean()
        # Which process is late is told to all with the loss, so that all save after the same step.
        due = self.accelerator.is_main_process and self.pace.due()
        sums = self.accelerator.reduce(
            torch.stack([mean, *(torch.full_like(mean, value) for value in (tokens, due))]), "sum"
        )
        self._close()
        now = time.perf_counter()
        self._open = PendingStep(self.progress.step, rate, *towards_host(sums), now - self._clock)
        self._clock = now

    def _close(self) -> None:
        """Report the step before: by now the device is done with it, so that nobody waits."""
        if self._open is None:
            return
        step, self._open = self._open, None
        if step.arrived is not None:
            step.arrived.synchronize()
        loss, tokens, due = step.sums.tolist()
        self._due = self._due or bool(due)
        loss /= self.accelerator.num_processes
        self.progress.tokens += int(tokens)
        speed = round(tokens / step.seconds)
        self._tell({"step": step.step, "loss": loss, "learning_rate": step.rate, "tokens_per_second": speed})
        if not math.isfinite(loss):
            raise InputError(
                f"The loss is no number any more at step {step.step}. Lower the learning rate "
                f"({self.recipe.learning_rate}), or train in bf16 instead of fp16."
            )

    # -- evaluation -----------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        self._close()
        # Code for other calls than those of training is not worth compiling.
        with torch.compiler.set_stance("force_eager") if self.recipe.compile else contextlib.nullcontext():
            found = {"valid_loss": self._loss()} | self._measures()
        metric = self.run.objective.metric
        value = -found["valid_loss"] if metric == "-loss" else found[metric]
        better = self._better(value, found["valid_loss"])
        self.progress.evaluated = self.progress.step
        self.progress.evaluations_without_gain = 0 if better else self.progress.evaluations_without_gain + 1
        if better:
            self.progress.best, self.progress.best_loss = value, found["valid_loss"]
            self.progress.best_step = self.progress.step
            self.states.keep_best(self.progress.step, functools.partial(put_files, self._vocabulary))
        self._tell({"step": self.progress.step, **found, "best": better})
        self._save()
        self._clock = time.perf_counter()

    def _better(self, value: float, loss: float) -> bool:
        """Whether an evaluation is better than the best: by the metric, and between equal values by the loss."""
        best, best_loss = self.progress.best, self.progress.best_loss
        if best is None or best_loss is None:
            return True
        return (value, -_or_infinite(loss)) > (best, -_or_infinite(best_loss))

    def _save(self) -> None:
        self._close()
        began = time.monotonic()
        self.states.save(self.progress)
        self.pace.saved(began)
        self._due = False

    @torch.no_grad()
    def _loss(self) -> float:
        """The mean loss of the validation part; every process computes it whole, so that none waits for another."""
        self.model.eval()
        lengths = _lengths(self.run.tokenizer, self.run.objective, self.run.valid, self.recipe)
        total = count = 0.0
        max_tokens = _EVALUATION_FACTOR * self.recipe.batch_tokens
        for indices in batches(lengths, max_tokens, 0, shuffled=False, padded=not self.run.packing):
            made = self._made(self.run.valid, indices, self.recipe.seed)
            batch, times = self._placed(made), weight(made)
            with self.engine.precision():
                total += float(self.engine.bare(**batch)["loss"]) * times
            count += times
        return total / max(1.0, count)

    def _measures(self) -> dict[str, float]:
        with self.engine.precision():
            predictor = Predictor(self.engine.bare, self.run.tokenizer, allow_untrained=True)
            return self.run.objective.metrics(predictor, self.run.valid)

    # -- batches --------------------------------------------------------------------------------------------------

    def _plan(self, epoch: int) -> list[Step]:
        """The steps of an epoch for this process; each process has batches of its own."""
        seed, padded = self._seed(epoch, 0), not self.run.packing
        found = batches(self.lengths, self.recipe.batch_tokens, seed, padded=padded)
        together = self.recipe.accumulate * self.accelerator.num_processes
        # The last step is filled up with the first batches: no text is left out.
        found += [found[place % len(found)] for place in range(-len(found) % together)]
        own = found[self.accelerator.process_index :: self.accelerator.num_processes]
        return [own[start : start + self.recipe.accumulate] for start in range(0, len(own), self.recipe.accumulate)]

    def _seed(self, epoch: int, number: int) -> int:
        return (self.recipe.seed * 1_000_003 + epoch) * 1_000_003 + number

    def _feed(self, steps: Sequence[Step], epoch: int) -> Iterator[Batch]:
        """The batches of steps, one after the other."""
        specs = [(indices, self._seed(epoch, indices[0])) for step in steps for indices in step]
        workers = workers_for(self.accelerator.device, self.recipe.workers)
        return feed(functools.partial(self._made, self.run.train), specs, workers)

    def _made(self, records: Sequence[Record], indices: Sequence[int], seed: int) -> Batch:
        made = self.run.objective.batch(self.run.tokenizer, [records[index] for index in indices], seed)
        return packed(made) if self.run.packing else made

    def _placed(self, made: Batch) -> dict[str, Any]:
        """A batch on the device; the lengths of packed texts stay on the host."""
        batch: dict[str, Any] = dict(made)
        lengths = batch.pop("lengths", None)
        batch = {name: on_device(value, self.accelerator.device) for name, value in batch.items()}
        return batch if lengths is None else batch | {"lengths": PackedRow.of(lengths)}

    def _tell(self, entry: Entry) -> None:
        self.log.add(entry)
        if self.watch is not None and self.accelerator.is_main_process:
            self.watch(entry | {"steps": self.steps})


def _or_infinite(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def _lengths(tokenizer: Tokenizer, objective: Objective, records: Sequence[Record], recipe: Recipe) -> list[int]:
    """About how many tokens each record has as an input."""
    most = recipe.max_length + recipe.max_target_length
    whole = ["\n".join(objective.texts(record)) for record in records]
    return [min(most, len(encoding.ids) + 3) for encoding in tokenizer.encode_batch(whole)]


def _optimizer(model: BaseModel, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, with groups of its own for matrices, which decay, and for parameters that are new."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        new = any(fnmatchcase(name, pattern) for pattern in model.fresh)
        groups.setdefault((parameter.dim() > 1, new), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if matrices else 0.0,
            "factor": recipe.head_rate if new else 1.0,
        }
        for (matrices, new), parameters in groups.items()
    ]
    fused = all(parameter.is_cuda for parameter in trained.values())  # one kernel for all parameters
    return torch.optim.AdamW(settings, lr=recipe.learning_rate, fused=fused)
