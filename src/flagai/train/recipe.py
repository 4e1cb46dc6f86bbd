"""What can be chosen about a training run, and the learning rate over its steps."""

import math
from dataclasses import dataclass

from flagai.errors import ConfigError, InputError
from flagai.model.config_fields import COUNT, PROBABILITY, SCALE, SIZE, field_specs, setting

SCHEDULES = ("cosine", "linear", "constant")
_SHARE = (0, math.nextafter(1, 0))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. The defaults suit fine-tuning a model of BERT's base size.

    `flagai finetune` takes its options, with their help, from these fields.

    Args:
        epochs: how often the data is seen.
        learning_rate: the highest learning rate.
        head_rate: factor on the learning rate of new heads, which the pretrained model does not have.
        batch_tokens: tokens of a batch of one process; texts of like length come together.
        accumulate: batches per step.
        warmup: the share of the steps in which the learning rate rises.
        schedule: how the learning rate falls after the warmup: cosine, linear or constant.
        weight_decay: of matrices; biases and norms have none.
        clip: the largest norm of the gradient.
        seed: the same number trains the same model: order of the data, dropout and new heads.
        max_length: how many tokens of a text are read.
        max_target_length: how many tokens a title or a poem may have.
        held_out: the share of the data for validation, if no validation file is given.
        evaluate_every: steps between evaluations; 0: once an epoch.
        patience: stop after so many evaluations without a better one; 0: never. Between equal values of the metric,
            the smaller loss is better.
        save_every: steps between checkpoints, besides those at evaluations; 0: by time only.
        save_minutes: minutes between checkpoints, the first ones sooner; 0: none by time.
        lora_rank: train LoRA adapters of this rank instead of all parameters; 0: all parameters.
        checkpoint_activations: recompute activations in the backward pass: less memory, a third more time.
        packing: train BERT's encoders without padding (without dropout in attention); None: on GPUs.
        fsdp: shard parameters, gradients and optimizer over all processes of torchrun (FSDP2).
        compile: compile the blocks by torch.compile: slower to begin, then faster.
        workers: processes that make batches beside this one; default as many as are useful on GPUs.
        generated: how many titles or poems of the validation part are written for ROUGE at the end.
    """

    epochs: int = setting(3, range=SIZE)
    learning_rate: float = setting(5e-5, range=PROBABILITY)
    head_rate: float = setting(1.0, range=SCALE)
    batch_tokens: int = setting(4096, range=SIZE)
    accumulate: int = setting(1, range=SIZE)
    warmup: float = setting(0.1, range=_SHARE)
    schedule: str = "cosine"
    weight_decay: float = setting(0.01, range=SCALE)
    clip: float = setting(1.0, range=(1e-9, 1e9))
    seed: int = setting(1, range=(0, 2**31))  # numpy's generator takes 32 bits, and each process adds its number
    max_length: int = setting(256, range=(8, 2**31))
    max_target_length: int = setting(80, range=(2, 2**31))
    held_out: float = setting(0.1, range=_SHARE)
    evaluate_every: int = setting(0, range=COUNT)
    patience: int = setting(0, range=COUNT)
    save_every: int = setting(0, range=COUNT)
    save_minutes: float = setting(10.0, range=(0, 1e6))
    lora_rank: int = setting(0, range=COUNT)
    checkpoint_activations: bool = False
    packing: bool | None = None
    fsdp: bool = False
    compile: bool = False
    workers: int | None = setting(None, range=(0, 1024))
    generated: int = setting(100, range=COUNT)

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            InputError: a value is of another type, or out of its range.
        """
        try:
            for name, spec in field_specs(Recipe).items():
                object.__setattr__(self, name, spec.parse(getattr(self, name), "Recipe"))
        except ConfigError as error:
            raise InputError(str(error)) from error
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule is {self.schedule!r}; known: {', '.join(SCHEDULES)}.")
        if self.fsdp and self.lora_rank:
            raise InputError("fsdp shards models without adapters. Leave lora_rank at 0, or fsdp off.")

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
