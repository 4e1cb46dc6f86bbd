"""Tasks, their names, and the class that does each in each family: data only."""

from collections.abc import Mapping

from flagai.errors import InputError

_BERT_WRITES = {"bert": "BertForSeq2seq", "glm": "GLMForSeq2Seq", "gpt2": "GPT2Model", "t5": "T5Model"}
_BACKBONES = {"bert": "BertModel", "glm": "GLMModel", "gpt2": "GPT2Model", "t5": "T5Model"}

# task -> family -> class
CLASSES: Mapping[str, Mapping[str, str]] = {
    "lm": _BACKBONES,
    "seq2seq": _BERT_WRITES,
    "title-generation": _BERT_WRITES,
    "poetry": _BERT_WRITES,
    "writing": _BERT_WRITES | {"glm": "GLMModel"},
    "masklm": {"bert": "BertForMaskLM", "glm": "GLMModel", "t5": "T5Model"},
    "ner": {"bert": "BertForSequenceLabeling"},
    "ner-crf": {"bert": "BertForSequenceLabelingCRF"},
    "ner-gp": {"bert": "BertForSequenceLabelingGP"},
    "semantic-matching": {
        "bert": "BertForClsClassifier",
        "glm": "GLMForSequenceClassification",
        "gpt2": "GPT2Model",
        "t5": "T5Model",
    },
    "classification": {
        "bert": "BertForClsClassifier",
        "glm": "GLMForSequenceClassification",
        "gpt2": "GPT2Model",
        "t5": "T5Model",
    },
    "embedding": _BACKBONES | {"bert": "BertForEmbedding"},
}

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


def task_named(name: str) -> str:
    """The task's own name, from any of its names.

    Raises:
        InputError: there is no such task; the message has all of them.
    """
    if not isinstance(name, str):
        raise InputError(f"task_name is {name!r:.80}; expected a text, such as 'ner'.")
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    task = ALIASES.get(key, key)
    if task not in CLASSES:
        raise InputError(
            f"There is no task {name!r:.80}. Known: {', '.join(CLASSES)}; also {', '.join(sorted(ALIASES))}."
        )
    return task


def class_for(task: str, family: str) -> str:
    """The name of the class that does a task in a family.

    Args:
        task: from :func:`task_named`.
        family: "glm", "bert", "gpt2" or "t5".

    Raises:
        InputError: models of this family cannot do it; the message says which tasks they can, and who can.
    """
    classes = CLASSES[task]
    if family not in classes:
        able = [name for name, table in CLASSES.items() if family in table]
        raise InputError(
            f"A {family:.80} model cannot do {task!r}. It can: {', '.join(able)}. "
            f"{task!r} needs a model of {', '.join(classes)}."
        )
    return classes[family]
