"""The training loop, on Hugging Face Accelerate: one process or many, any precision that its configuration names.

Sources: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"; the same 2017, "SGDR: Stochastic Gradient
Descent with Warm Restarts" (cosine schedule).
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flagai.data.prepare.batch import Batch
from flagai.errors import InputError
from flagai.model.meta_init import gc_frozen
from flagai.model.predictor.predictor import Predictor
from flagai.train.batches import placed, worker_count
from flagai.train.engine import ShardedEngine, TrainingEngine, build_optimizer
from flagai.train.output import put_files
from flagai.train.run import TrainingRun, memory_advice
from flagai.train.state import Entry, Progress, States

Watch = Callable[[Entry], None]
# Writes what belongs to a finished model into its folder.
Finish = Callable[[Path], None]
# The first checkpoint comes soon: then a run that is cut off early begins again from it, not from its first step.
_FIRST = 2.0
# A checkpoint may take this share of the time between two.
_SHARE = 0.05


class SaveTimer:
    """Says when a checkpoint is due by time: after 2, 4, 8, ... seconds, then every so many minutes; 0: never."""

    def __init__(self, minutes: float) -> None:
        self._longest = 60 * minutes
        self._begin = self._last = time.monotonic()
        self._cost = 0.0

    def due(self) -> bool:
        """Whether it is time to save."""
        if not self._longest:
            return False
        wait = min(self._longest, max(_FIRST, self._last - self._begin))
        return time.monotonic() - self._last >= max(wait, self._cost / _SHARE)

    def saved(self, began: float) -> None:
        """Note that a checkpoint was written, begun at this time of the monotonic clock."""
        self._last = time.monotonic()
        self._cost = self._last - began


@dataclass(frozen=True)
class _PendingStep:
    """A step whose loss the device may still be computing.

    The sums over the processes are of its loss, its tokens and whether a checkpoint is due; they are on the host when
    ``arrived`` has happened.
    """

    step: int
    rate: float
    sums: torch.Tensor
    arrived: torch.cuda.Event | None
    seconds: float  # since the step before


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
        self.run, self.accelerator = run, accelerator
        self.watches: list[Watch] = [] if watch is None else [watch]
        self.recipe = run.recipe
        self._files = run.tokenizer.description.portable_files() | run.objective.files(run.model, run.tokenizer)
        lengths, place = run.lengths(run.train), (accelerator.process_index, accelerator.num_processes)
        self.epochs = [run.steps(lengths, epoch, *place) for epoch in range(self.recipe.epochs)]
        self.steps = sum(map(len, self.epochs))
        kind = ShardedEngine if run.model.sharding is not None else TrainingEngine
        optimizer = build_optimizer(run.model, self.recipe)
        base, layout = str(settings.get("model", "")), run.objective.layout
        self.engine = kind(accelerator, run.model, optimizer, base=base, layout=layout)
        self.model, self.optimizer = self.engine.model, self.engine.optimizer
        self.states = States(out, accelerator, self.engine, settings, overwrite=overwrite)
        self.log = self.states.log
        self.progress = Progress()
        self._timer = SaveTimer(self.recipe.save_minutes)
        self._due = False
        self._pending: _PendingStep | None = None
        self._clock = time.perf_counter()

    def resume(self) -> None:
        """Lock the folder and go to the newest checkpoint, if there is one.

        Raises:
            InputError: the folder holds something else, or the checkpoint is of another run.
            CheckpointError: the checkpoint is damaged.
        """
        with memory_advice(self.recipe):
            self.progress = self.states.load()

    def fit(self, finish: Finish | None = None) -> Progress:
        """Train from here to the end; exchange the best model, which ``finish`` completes, for what is in ``out``.

        Raises:
            InputError: the loss is not finite, or the memory is too small.
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
        done, every, recipe = self.progress.step, self.recipe.evaluate_every, self.recipe
        workers = worker_count(self.accelerator.device, recipe.workers)
        self._clock = time.perf_counter()
        self._timer = SaveTimer(recipe.save_minutes)
        for epoch, steps in enumerate(self.epochs):
            todo, done = range(min(done, len(steps)), len(steps)), max(0, done - len(steps))
            made = self.run.batches([steps[place] for place in todo], epoch, workers)
            for place in todo:
                # Before a step: a run may have been cut off behind its last evaluation.
                if self._out_of_patience():
                    return
                self.train_step([next(made) for _ in steps[place]])
                if (self.progress.step % every == 0) if every else place + 1 == len(steps):
                    self.evaluate()
                elif self._due or (recipe.save_every and self.progress.step % recipe.save_every == 0):
                    self.save()
        if self.progress.evaluated < self.progress.step and not self._out_of_patience():
            self.evaluate()
        self._finish_step()

    def _out_of_patience(self) -> bool:
        return bool(self.recipe.patience) and self.progress.evaluations_without_gain >= self.recipe.patience

    def train_step(self, step: Sequence[Batch]) -> None:
        """Train on the batches of a step."""
        rate = self.recipe.rate(self.progress.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.model.train()
        losses, tokens = [], 0
        for number, made in enumerate(step):
            tokens += made["input_ids"].numel()
            batch = placed(made, self.accelerator.device)
            last = number + 1 == len(step)
            with contextlib.nullcontext() if last else self.engine.local_gradients():
                loss = self.run.objective.loss(self.model, batch, self.run.tokenizer)
                self.accelerator.backward(loss)
            losses.append(loss.detach().float())
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        mean = torch.stack(losses).mean()
        # That a checkpoint is due is told to all with the loss, so that all save after the same step.
        due = self.accelerator.is_main_process and self._timer.due()
        sums = torch.stack([mean, *(torch.full_like(mean, value) for value in (tokens, due))])
        sums = self.accelerator.reduce(sums, "sum")
        self._finish_step()
        now = time.perf_counter()
        self._pending = _PendingStep(self.progress.step, rate, *_to_host(sums), now - self._clock)
        self._clock = now

    def _finish_step(self) -> None:
        """Report the step before: by now the device is done with it, so that nothing waits."""
        if self._pending is None:
            return
        step, self._pending = self._pending, None
        if step.arrived is not None:
            step.arrived.synchronize()
        loss, tokens, due = step.sums.tolist()
        self._due = self._due or bool(due)
        loss /= self.accelerator.num_processes
        self.progress.tokens += int(tokens)
        speed = round(tokens / step.seconds)
        self._report({"step": step.step, "loss": loss, "learning_rate": step.rate, "tokens_per_second": speed})
        if not math.isfinite(loss):
            raise InputError(
                f"The loss is not finite at step {step.step}. Lower the learning rate "
                f"({self.recipe.learning_rate}), or train in bf16 instead of fp16."
            )

    def evaluate(self) -> None:
        """Evaluate the model, keep it if it is the best so far, and save."""
        self._finish_step()
        # Code for other calls than those of training is not worth compiling.
        with torch.compiler.set_stance("force_eager") if self.recipe.compile else contextlib.nullcontext():
            found = {"valid_loss": self.validation_loss()} | self.validation_metrics()
        progress, metric, loss = self.progress, self.run.objective.metric, found["valid_loss"]
        value = -loss if metric == "-loss" else found[metric]
        progress.evaluated = progress.step
        progress.evaluations_without_gain += 1
        # Better is what has a better metric, and between equal values the smaller loss.
        better = progress.best is None or progress.best_loss is None
        better = better or (value, -_or_infinite(loss)) > (progress.best, -_or_infinite(progress.best_loss))
        if better:
            progress.best, progress.best_loss, progress.best_step = value, loss, progress.step
            progress.evaluations_without_gain = 0
            self.states.keep_best(progress.step, functools.partial(put_files, self._files))
        self._report({"step": progress.step, **found, "best": better})
        self.save()
        self._clock = time.perf_counter()

    def save(self) -> None:
        """Write a checkpoint."""
        self._finish_step()
        began = time.monotonic()
        self.states.save(self.progress)
        self._timer.saved(began)
        self._due = False

    def validation_loss(self) -> float:
        """The mean loss of the validation part; every process computes it whole, so that none waits for another."""
        self.model.eval()
        return self.run.held_out_loss(self.engine.bare, self.accelerator.device, self.engine.precision)

    def validation_metrics(self) -> dict[str, float]:
        """The objective's metrics on the validation part."""
        with self.engine.precision():
            predictor = Predictor(self.engine.bare, self.run.tokenizer, allow_untrained=True)
            return self.run.objective.metrics(predictor, self.run.valid)

    def _report(self, entry: Entry) -> None:
        self.log.add(entry)
        for watch in self.watches if self.accelerator.is_main_process else ():
            watch(entry | {"steps": self.steps})


def _or_infinite(loss: float | None) -> float:
    return math.inf if loss is None or math.isnan(loss) else loss


def _to_host(sums: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Begin to copy numbers to the host: asked for later, they would come after the work that was queued meanwhile."""
    if sums.device.type != "cuda":
        return sums, None
    copied, arrived = torch.empty_like(sums, device="cpu", pin_memory=True), torch.cuda.Event()
    copied.copy_(sums, non_blocking=True)
    arrived.record()
    return copied, arrived
