"""What can be chosen about a training run, and the learning rate over its steps."""

import math
from dataclasses import dataclass

from flagai.errors import ConfigError, InputError
from flagai.model.config_fields import COUNT, PROBABILITY, SCALE, SIZE, field_specs, setting

SCHEDULES = ("cosine", "linear", "constant")
TAG_SCHEMES = ("IOB1", "IOB2", "BIO", "IOBES", "BIOES", "BMES", "BILOU", "BMEWO")
PRECISIONS = ("no", "fp16", "bf16", "fp8")
_SHARE = (0, math.nextafter(1, 0))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. The defaults suit fine-tuning a model of BERT's base size.

    `flagai finetune` takes its options, with their help, from these fields.
    """

    epochs: int = setting(3, range=SIZE, doc="number of epochs")
    learning_rate: float = setting(5e-5, range=PROBABILITY, doc="peak learning rate")
    head_rate: float = setting(1.0, range=SCALE, doc="learning-rate multiplier of newly initialized parameters")
    batch_tokens: int = setting(4096, range=SIZE, doc="tokens per batch and process")
    accumulate: int = setting(1, range=SIZE, doc="gradient accumulation: batches per step")
    warmup: float = setting(0.1, range=_SHARE, doc="the share of the steps in which the learning rate rises")
    schedule: str = setting("cosine", doc="learning-rate schedule: cosine, linear or constant")
    weight_decay: float = setting(0.01, range=SCALE, doc="of matrices; biases and norms have none")
    clip: float = setting(1.0, range=(1e-9, 1e9), doc="the largest norm of the gradient")
    # numpy takes 32 bits, and each process adds its number.
    seed: int = setting(1, range=(0, 2**31), doc="random seed")
    max_length: int = setting(256, range=(8, 2**31), doc="maximum number of input tokens")
    max_target_length: int = setting(80, range=(2, 2**31), doc="maximum number of target tokens (titles, poems)")
    held_out: float = setting(0.1, range=_SHARE, doc="share of the data for validation without a file for it")
    evaluate_every: int = setting(0, range=COUNT, doc="steps between evaluations; 0: once an epoch")
    patience: int = setting(0, range=COUNT, doc="stop after so many evaluations without a better one; 0: never")
    save_every: int = setting(0, range=COUNT, doc="steps between checkpoints; 0: by time only")
    save_minutes: float = setting(
        10.0, range=(0, 1e6), doc="minutes between checkpoints, the first ones sooner; 0: none"
    )
    lora_rank: int = setting(0, range=COUNT, doc="train LoRA adapters of this rank; 0: all parameters")
    precision: str | None = setting(None, doc="no (float32), bf16 or fp16; default as Accelerate is configured")
    checkpoint_activations: bool = setting(
        False, doc="recompute activations in the backward pass (less memory, about 33 % slower)"
    )
    packing: bool | None = setting(None, doc="train BERT without padding and attention dropout; None: on GPUs")
    fsdp: bool = setting(False, doc="shard the training over all processes of torchrun (FSDP2)")
    compile: bool = setting(False, doc="compile the blocks by torch.compile")
    workers: int | None = setting(None, range=(0, 1024), doc="data-loading processes; default some on GPUs, 0 on a CPU")
    temperature: float = setting(0.05, range=(0.001, 10), doc="of embeddings: cosines are divided by it")
    scheme: str | None = setting(None, doc="the tagging scheme of entities, such as IOB1 or BIOES; default detected")
    generated: int = setting(100, range=COUNT, doc="titles or poems of the validation part that are written for ROUGE")

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
        if self.precision not in (None, *PRECISIONS):
            raise InputError(f"precision is {self.precision!r}; known: {', '.join(PRECISIONS)}.")
        if self.scheme is not None and self.scheme.upper() not in TAG_SCHEMES:
            raise InputError(f"scheme is {self.scheme!r:.80}; known: {', '.join(TAG_SCHEMES)}.")
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
