"""The training loop of GLM-mini-ch."""

import argparse
import json
import math
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from flagai.model.glm_model import GLMForSeq2Seq

_BETAS, _DECAY, _CLIP = (0.9, 0.98), 0.1, 1.0
_WARM_UP = {1: 300, 2: 300, 3: 50}  # steps, by stage


class Training:
    """The training loop: one model, one GPU, one schedule over time.

    Args:
        model: the model, in float32.
        out: the folder of the result.
        arguments: of the command line.
        deadline: when training must end.
    """

    def __init__(self, model: GLMForSeq2Seq, out: Path, arguments: argparse.Namespace, deadline: float) -> None:
        self.model, self.out, self.arguments, self.deadline = model, out, arguments, deadline
        self.device = model.device
        self.cuda = self.device.type == "cuda"
        matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}],
            lr=arguments.rate,
            betas=_BETAS,
            fused=self.cuda,
        )
        if arguments.compile:
            torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
            for block in model.model.blocks:
                block.compile(dynamic=True)  # one code for all of them
        self.start = time.monotonic()
        self.steps, self.tokens, self.stopped, self.waited = 0, 0, False, 0.0
        self.log = out / "log.jsonl"
        self.log.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopped = True

    def progress(self, passes: float) -> float:
        """How much of the training is done, by time or by passes, whatever is more."""
        spent = (time.monotonic() - self.start) / max(self.deadline - self.start, 1e-9)
        return min(1.0, max(spent, passes / self.arguments.passes))

    def rate(self, progress: float) -> float:
        """Linear warm-up over steps, then a cosine over the progress, down to nothing."""
        warm = min(1.0, (self.steps + 1) / (10 if self.arguments.smoke else _WARM_UP[self.arguments.stage]))
        return float(self.arguments.rate * warm * 0.5 * (1 + math.cos(math.pi * progress)))

    def loss(self, arrays: dict[str, Any]) -> torch.Tensor:
        """The loss of a batch, in bfloat16 where there is a GPU."""
        batch = {name: torch.from_numpy(array).to(self.device).long() for name, array in arrays.items()}
        if not arrays["attention_mask"].any():  # on the host, where the model sees that all is causal
            batch["attention_mask"] = torch.from_numpy(arrays["attention_mask"])
        with torch.autocast("cuda", torch.bfloat16) if self.cuda else nullcontext():
            loss: torch.Tensor = self.model(**batch)["loss"]
        return loss

    def train(self, loader: "DataLoader[dict[str, Any]]", validation: list[tuple[str, dict[str, Any]]]) -> None:
        """Train until the time or the passes are over.

        Args:
            loader: batch after batch.
            validation: batches and the task of each.
        """
        seconds_between = max(5.0, (self.deadline - self.start) / 14)
        next_check, running = time.monotonic() + seconds_between, torch.zeros((), device=self.device)
        count = 0
        self.model.train()
        asked = time.monotonic()
        for arrays in loader:
            self.waited += time.monotonic() - asked
            passes = arrays.pop("passes")
            progress = self.progress(passes)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(progress)
            loss = self.loss(arrays)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.steps += 1
            count += 1
            self.tokens += arrays["input_ids"].size
            running += loss.detach()
            over = progress >= 1 or self.stopped
            if over or self.steps % 100 == 0:
                self._report(float(running) / count, passes, progress)
                running.zero_()
                count = 0
            if over or time.monotonic() > next_check:
                self.check(validation, passes)
                next_check = time.monotonic() + seconds_between
            if over:
                break
            asked = time.monotonic()

    def check(self, validation: list[tuple[str, dict[str, Any]]], passes: float) -> None:
        """Measure the loss on the validation part, and keep the model."""
        losses = self.validate(validation)
        # A copy: the model goes on in float32. The last one is kept, where the learning rate has fallen to nothing.
        with torch.device("meta"):
            copy = type(self.model)(self.model.config)
        copy.load_state_dict(
            {name: value.detach().half() for name, value in self.model.state_dict().items()}, assign=True
        )
        copy.save_pretrained(self.out, max_shard_size="15MB")
        self._write(event="validation", passes=passes, **losses)

    @torch.no_grad()
    def validate(self, validation: list[tuple[str, dict[str, Any]]]) -> dict[str, float]:
        """The loss per token of every task."""
        self.model.eval()
        sums: dict[str, list[float]] = {}
        with torch.compiler.set_stance("force_eager"):  # other code than that of training is not worth compiling
            for task, arrays in validation:
                weight = float(arrays["loss_mask"].sum())
                total = sums.setdefault(task, [0.0, 0.0])
                total[0] += float(self.loss(arrays)) * weight
                total[1] += weight
        self.model.train()
        return {task: total / weight for task, (total, weight) in sums.items()}

    def _report(self, loss: float, passes: float, progress: float) -> None:
        seconds = time.monotonic() - self.start
        self._write(
            event="step",
            step=self.steps,
            loss=loss,
            rate=self.rate(progress),
            passes=passes,
            progress=progress,
            seconds=seconds,
            seconds_waited_for_data=self.waited,
            tokens_per_second=self.tokens / seconds,
        )
        if not math.isfinite(loss):
            raise SystemExit("The loss is no number any more; the model of the last validation is kept.")

    def _write(self, **entry: Any) -> None:
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in entry.items()}
        line = json.dumps(rounded, ensure_ascii=False)
        with self.log.open("a", encoding="utf-8") as file:  # saving a model exchanges the folder: nothing stays open
            file.write(line + "\n")
        print(line, flush=True)
