"""Modules of the original FlagAI that this library does not have: importing one says what does the same here."""

from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_TRAINER = "flagai.train.finetune.finetune (or `flagai finetune`); all models also train in transformers' Trainer"
INSTEAD = {
    "flagai.trainer": _TRAINER,
    "flagai.env_args": "flagai.train.recipe.Recipe, the settings of flagai.train.finetune.finetune",
    "flagai.env_trainer": _TRAINER,
    "flagai.env_trainer_v1": _TRAINER,
    "flagai.launch": "`accelerate launch -m flagai finetune ...`, or torchrun",
    "flagai.data.dataset": "flagai.train.records.read_records, which reads JSON lines, CSV and CoNLL",
    "flagai.data.collate_utils": "flagai.data.prepare, one function for each kind of input",
    "flagai.metrics": "flagai.train.metrics",
    "flagai.mpu": 'flagai.parallel, or `mesh="auto"` in from_pretrain (docs/parallel.md)',
    "flagai.schedulers": "`schedule` and `warmup` of flagai.train.recipe.Recipe, or torch.optim.lr_scheduler",
    "flagai.optimizers": "torch.optim.AdamW, which flagai.train uses",
    "flagai.fp16": "ACCELERATE_MIXED_PRECISION=bf16 (or fp16) for training, `dtype=` in from_pretrain",
    "flagai.logger": "the standard library's logging; the loggers' names begin with flagai",
    "flagai.test_utils": "torchrun --nproc-per-node",
}


class AbsentModules(MetaPathFinder):
    """Asked by Python last, for modules that were not found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise an error with the cure for a module of the original.

        Raises:
            ModuleNotFoundError: it is one.
        """
        if fullname in INSTEAD:
            raise ModuleNotFoundError(
                f"flagai has no {fullname}: training and its tools differ from the original FlagAI. Use "
                f"{INSTEAD[fullname]}; see docs/differences-from-flagai.md.",
                name=fullname,
            )
        return None
