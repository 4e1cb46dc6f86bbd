"""What is not here, and what to do: extras that are not installed, and modules of the original FlagAI."""

from collections.abc import Iterable

DISTRIBUTION = "flagai-lm"  # on PyPI, `flagai` is the original project
_OTHER_MODEL = "the original FlagAI or transformers for models other than GLM, BERT, GPT-2 and T5"
_DOWNLOAD = "`from_pretrain`, `flagai download` or flagai.hub"
_TOKENIZER = "flagai.data.tokenizer.Tokenizer, the class of all vocabularies"
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
    "flagai.data.file_utils": _DOWNLOAD,
    "flagai.model.file_utils": _DOWNLOAD,
    "flagai.model.utils": _DOWNLOAD,
    "flagai.model.tools": "PEFT itself, or `flagai finetune --lora`",
    "flagai.model.layers": "flagai.model.layer",
    "flagai.model.blocks": "flagai.model.block",
    "flagai.model.prompt": "flagai.model.layer.prompt",
    "flagai.model.predictor.gpt": "flagai.model.predictor.predictor",
    "flagai.model.predictor.simctg": "`penalty_alpha` and `top_k` of flagai.model.predictor.predictor.Predictor.write",
    "flagai.model.predictor.utils": "flagai.generation, or flagai.model.predictor.predictor.Predictor for texts",
    **{
        f"flagai.data.tokenizer.{name}": _TOKENIZER
        for name in ("bert", "glm_10b_en", "glm_large_ch", "glm_large_en", "roberta", "t5", "uni_tokenizer")
    },
    **{f"flagai.data.tokenizer.{name}": _OTHER_MODEL for name in ("clip", "cpm_1", "cpm_3", "galactica", "opt")},
    **{
        f"flagai.model.{name}": _OTHER_MODEL
        for name in (
            *("alm_model", "aquila2", "aquila2_model", "aquila_model", "clip_model", "cpm3_model", "cpm_model"),
            *("galactica_model", "llama_model", "mm", "opt_model", "predictor.aquila", "predictor.llama", "vision"),
        )
    },
}


def install_hint(extra: str) -> str:
    """How to install an extra, also of a clone that is installed (``pip install -e .``)."""
    return f"Install the extra: pip install '{DISTRIBUTION}[{extra}]'"


def original_beside(folders: Iterable[str]) -> str:
    """The message of the error where the original FlagAI lies in one of the folders, too."""
    both = ", ".join(dict.fromkeys(folders))
    return (
        f"This library (distribution {DISTRIBUTION}) and the original FlagAI (distribution flagai) are both found as "
        f"`flagai`, so parts of each would be imported: {both}. Keep one: `pip uninstall flagai`, then "
        f"`pip install --force-reinstall --no-deps {DISTRIBUTION}`; or give each an environment of its own."
    )
