"""The tasks, all their names, and the models that do them where none is named."""

from collections.abc import Mapping

from flagai.errors import InputError
from flagai.typed_json import shown

TASKS = (
    "lm",
    "seq2seq",
    "title-generation",
    "poetry",
    "writing",
    "masklm",
    "ner",
    "ner-crf",
    "ner-gp",
    "semantic-matching",
    "classification",
    "embedding",
)
# Other names of tasks; underscores and spaces are hyphens.
ALIASES: Mapping[str, str] = {
    "title": "title-generation",
    "poetry-generation": "poetry",
    "couplets-generation": "poetry",
    "write": "writing",
    "text-generation": "writing",
    "fill": "masklm",
    "blank-filling": "masklm",
    "mask-lm": "masklm",
    "sequence-labeling": "ner",
    "sequence-labeling-crf": "ner-crf",
    "sequence-labeling-gp": "ner-gp",
    "matching": "semantic-matching",
    "cls": "classification",
    "text-classification": "classification",
    "emotion-analysis": "classification",
    "embed": "embedding",
}
DEFAULT_EMBEDDING = "all-MiniLM-L6-v2"
# task -> the default models of flagai.load and the command line, which take the first that can be had. AutoLoader and
# `flagai finetune` keep FlagAI's default for every task, RoBERTa-base-ch: programs written for FlagAI rely on it.
DEFAULT_MODELS: Mapping[str, tuple[str, ...]] = {
    "lm": ("GPT2-base-ch", "GLM-mini-ch"),
    "title-generation": ("GLM-mini-ch",),
    "poetry": ("GLM-mini-ch",),
    "writing": ("GPT2-base-ch", "GLM-mini-ch"),
    "masklm": ("GLM-large-ch", "GLM-mini-ch"),
    "ner": ("RoBERTa-base-ch",),
    "ner-crf": ("RoBERTa-base-ch",),
    "ner-gp": ("RoBERTa-base-ch",),
    "semantic-matching": (DEFAULT_EMBEDDING,),
    "embedding": (DEFAULT_EMBEDDING,),
}


def name_key(name: str) -> str:
    """What all spellings of a name have in common: lower case, and hyphens for underscores and spaces.

    Raises:
        InputError: it is not text.
    """
    if not isinstance(name, str):
        raise InputError(f"{shown(name)} is not a name of a model, task, family or language; expected a text.")
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def without_alias(name: str) -> str:
    """The name of a task that an alias stands for; any other name as it is compared."""
    key = name_key(name)
    return ALIASES.get(key, key)


def task_named(name: str) -> str:
    """The task's own name, from any of its names.

    Raises:
        InputError: there is no such task; the message has all of them.
    """
    if not isinstance(name, str):
        raise InputError(f"task_name is {shown(name)}; expected a text, such as 'ner'.")
    task = without_alias(name)
    if task not in TASKS:
        raise InputError(
            f"There is no task {name!r:.80}. Known: {', '.join(TASKS)}; also {', '.join(sorted(ALIASES))}."
        )
    return task
