"""The training loop of GLM-mini-ch: one device, a schedule in steps, exact resume."""

import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import glm_mini_checkpoint
import torch
from glm_mini_eval import losses_of
from glm_mini_model import FastGLM, Functions
from glm_mini_optimizer import Optimizer, schedule
from glm_mini_pool import Part, Pool
from glm_mini_tasks import FALLING, SHARES

from flagai.model.glm_model import GLMForSeq2Seq

_FACTS = ("step", "number", "place", "falling", "tokens", "seconds")
_REPORT, _CHECK_SECONDS, _SCORED = 200, 90.0, 4096
# Steps before the speed is measured, how many are measured, and the share of the time that is planned with.
_COLD, _TIMED, _SPARE = 20, 120, 0.95
_LATE = 12.0  # seconds that a planned end may be missed by


@dataclass
class Plan:
    """How to train.

    Args:
        rate: Muon's highest learning rate.
        adam_rate: AdamW's.
        decay: Muon's decay of weights.
        dropout: probability of dropping a feature.
        muon: use Muon; else AdamW for all.
        warm_up: steps until the highest rate.
        decay_from: the step from which it falls.
        steps: number of steps; 0: not known yet.
        seed: of everything.
    """

    rate: float = 3e-3
    adam_rate: float = 1.5e-3
    decay: float = 0.1
    dropout: float = 0.15
    muon: bool = True
    warm_up: int = 300
    decay_from: int = 0
    steps: int = 0
    seed: int = 1


def precision(device: torch.device) -> torch.dtype:
    """The type of the matrix products."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


class Training:
    """A run.

    Args:
        model: in float32, on its device.
        pool: what to learn from.
        validation: rows by task, from :func:`glm_mini_eval.held_out`.
        plan: how to train.
        out: the folder of ``log.jsonl`` and ``state.safetensors``.
        using: the functions to share between runs.
    """

    def __init__(
        self,
        model: GLMForSeq2Seq,
        pool: Pool,
        validation: dict[str, Part],
        plan: Plan,
        out: Path,
        using: Functions,
    ) -> None:
        self.model, self.pool, self.validation, self.plan, self.out = model, pool, validation, plan, out
        self.cuda = model.device.type == "cuda"
        self.fast, self.plain = FastGLM(model, using), FastGLM(model, Functions(precision(model.device)))
        self.named = dict(model.named_parameters())
        self.optimizer = Optimizer(self.named, plan.rate, plan.adam_rate, plan.decay, muon=plan.muon)
        self.step, self.number, self.place, self.tokens, self.seconds = 0, 0, 0, 0, 0.0
        self.stopped, self.share, self.falling = False, 0.0, False
        self.changes: dict[str, float] = {}  # of the shares of tasks
        out.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopped = True

    # -- state ------------------------------------------------------------------------------------------------

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self.named.items():
            yield f"parameter.{name}", parameter
        yield from self.optimizer.state()

    def save(self) -> None:
        """Write the state, and round the run's own state to it; see :mod:`glm_mini_checkpoint`."""
        facts = {name: getattr(self, name) for name in _FACTS}
        glm_mini_checkpoint.save(self.out / "state.safetensors", self._tensors(), facts | {"plan": asdict(self.plan)})

    def resume(self, path: Path) -> None:
        """Go on from a state; the plan may differ, if that is wanted."""
        facts: Any = glm_mini_checkpoint.load(path, self._tensors())
        for name in _FACTS:
            setattr(self, name, facts[name])
        self.optimizer.set_steps(self.step)

    # -- training ---------------------------------------------------------------------------------------------

    def train(self, deadline: float = math.inf, finish: float = 0.0, until: int = 0) -> dict[str, float]:
        """Train until the plan's steps are done, or a step or a time is reached.

        Args:
            deadline: by the monotonic clock.
            finish: measure the speed and set the plan so that the schedule ends at the deadline; the rate falls in
                this share of the remaining steps.
            until: the step to stop at.

        Returns:
            The losses of :meth:`check`.
        """
        started = asked = time.monotonic()
        first, counted, running = self.step, 0, torch.zeros((), device=self.model.device)
        batches = self._batches()
        next_check = started + _CHECK_SECONDS
        end = until or self.plan.steps or math.inf
        late = deadline + (_LATE if finish else 0.0)
        while self.step < end and not self.stopped and time.monotonic() < late:
            falls = self.plan.steps > 0 and self.step >= self.plan.decay_from
            if self.place == len(batches) or falls > self.falling:
                self.number, self.place, self.falling = self.number + 1, 0, falls
                batches = self._batches()
            loss = self._step(*batches[self.place])
            self.place += 1
            self.step += 1
            self.share = self.place / len(batches)
            running += loss
            counted += 1
            done = self.step - first
            if done in (_COLD, _COLD + _TIMED):
                self._synchronize()
                if done > _COLD:
                    each = (time.monotonic() - asked) / _TIMED
                    if finish:
                        end = self.plan.steps = self.step + max(1, int((deadline - time.monotonic()) / each * _SPARE))
                        self.plan.decay_from = end - int((end - self.step) * finish)
                        self.write(event="plan", **asdict(self.plan))
                asked = time.monotonic()
            if self.step % _REPORT == 0 or self.step == end:
                self._report(float(running) / counted, time.monotonic() - started)
                counted = 0
                running.zero_()
            if time.monotonic() > next_check:
                self.check()
                next_check = time.monotonic() + _CHECK_SECONDS
        self._synchronize()
        self.seconds += time.monotonic() - started
        return self.check()

    def _batches(self) -> list[Any]:
        return self.pool.batches_of(self.number, (FALLING if self.falling else SHARES) | self.changes)

    def _step(self, key: Any, places: Any) -> torch.Tensor:
        torch.manual_seed(self.plan.seed * 1_000_003 + self.step)
        batch, asked = self.pool.batch(key, places)
        scored = min(-(-asked // _SCORED) * _SCORED, batch["ids"].numel())
        loss = self.fast.loss(batch, scored) / asked
        loss.backward()
        plan = self.plan
        self.optimizer.step(schedule(self.step, plan.warm_up, plan.decay_from, plan.steps))
        self.tokens += batch["ids"].numel()
        return loss.detach()

    def profile(self, steps: int) -> None:
        """Print where the time of some more steps goes; nothing is kept of them."""
        batches = self._batches()[:steps]
        with torch.profiler.profile() as found:
            for batch in batches:
                self._step(*batch)
            self._synchronize()
        by = "self_device_time_total" if self.cuda else "self_cpu_time_total"
        print(found.key_averages().table(sort_by=by, row_limit=30, max_name_column_width=70), flush=True)

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    # -- what is seen of it -----------------------------------------------------------------------------------

    def check(self) -> dict[str, float]:
        """The loss per token of every task on the validation part."""
        found = {task: round(loss, 4) for task, loss in losses_of(self.plain, self.validation).items()}
        self.write(event="validation", step=self.step, passes=self.number + round(self.share, 3), **found)
        return found

    def _report(self, loss: float, seconds: float) -> None:
        factor = schedule(self.step, self.plan.warm_up, self.plan.decay_from, self.plan.steps)
        self.write(
            event="step",
            step=self.step,
            loss=round(loss, 4),
            rate=round(self.plan.rate * factor, 7),
            tokens=self.tokens,
            seconds=round(self.seconds + seconds, 1),
        )
        if not math.isfinite(loss):
            raise SystemExit("The loss is no number any more.")

    def write(self, **entry: Any) -> None:
        """A line of the log."""
        line = json.dumps(entry, ensure_ascii=False)
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
