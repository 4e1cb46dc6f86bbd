"""What can be chosen about a training run, and the learning rate over its steps."""

import math
from dataclasses import dataclass

from flagai.errors import InputError

SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. The defaults suit fine-tuning a model of BERT's base size.

    Args:
        epochs: how often the data is seen.
        learning_rate: the highest learning rate.
        head_rate: factor on the learning rate of parameters that the pretrained model does not have.
        batch_tokens: how many tokens a batch of one process may have; texts of like length come together.
        accumulate: batches per step.
        warmup: the share of the steps in which the learning rate rises.
        schedule: how it falls afterwards: "cosine", "linear" or "constant".
        weight_decay: of matrices; biases and norms have none.
        clip: the largest norm of the gradient.
        seed: of the order of the data, of dropout and of newly drawn heads.
        max_length: how many tokens of a text are read.
        max_target_length: how many tokens are written, for titles and poems.
        held_out: the share of the data for validation, if no validation file is given.
        evaluate_every: steps between evaluations; 0: once an epoch.
        patience: stop after so many evaluations that are not better than the best; 0: never. Between equal values
            of the metric, the smaller loss is better.
        save_every: steps between checkpoints, besides those at evaluations; 0: by time only.
        save_minutes: the longest time between checkpoints; the first ones come sooner. 0: none by time.
        lora_rank: train LoRA adapters of this rank instead of all parameters; 0: all parameters.
        checkpoint_activations: compute activations again in the backward pass, for less memory.
        packing: train BERT's encoders without padding (without dropout in attention); None: on GPUs.
        fsdp: shard parameters, gradients and optimizer over all processes (FSDP2).
        compile: compile the blocks by torch.compile: slower to begin, faster from then on.
        workers: processes that make batches beside this one; None: on GPUs as many as are useful.
        generated: how many titles or poems of the validation part are written for ROUGE at the end.
    """

    epochs: int = 3
    learning_rate: float = 5e-5
    head_rate: float = 1.0
    batch_tokens: int = 4096
    accumulate: int = 1
    warmup: float = 0.1
    schedule: str = "cosine"
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 1
    max_length: int = 256
    max_target_length: int = 80
    held_out: float = 0.1
    evaluate_every: int = 0
    patience: int = 0
    save_every: int = 0
    save_minutes: float = 10.0
    lora_rank: int = 0
    checkpoint_activations: bool = False
    packing: bool | None = None
    fsdp: bool = False
    compile: bool = False
    workers: int | None = None
    generated: int = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            InputError: a value is out of its range.
        """
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule is {self.schedule!r}; known: {', '.join(SCHEDULES)}.")
        for name, lowest in _LOWEST.items():
            if (getattr(self, name) or 0) < lowest:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least {lowest}.")
        if self.fsdp and self.lora_rank:
            raise InputError("fsdp shards models without adapters. Leave lora_rank at 0, or fsdp off.")
        for name in ("warmup", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a share from 0 to below 1.")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step.

        Args:
            step: counted from 0.
            steps: of the whole run.
        """
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        progress = (step - warm) / max(1, steps - warm)
        falling = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
        return self.learning_rate * falling[self.schedule]


_LOWEST = {
    "epochs": 1,
    "learning_rate": 0,
    "head_rate": 0,
    "batch_tokens": 1,
    "accumulate": 1,
    "max_length": 8,
    "max_target_length": 2,
    "evaluate_every": 0,
    "patience": 0,
    "save_every": 0,
    "save_minutes": 0,
    "lora_rank": 0,
    "workers": 0,
    "generated": 0,
}
