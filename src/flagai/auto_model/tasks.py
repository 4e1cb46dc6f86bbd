"""Tasks, their names, and the class that does each in each family."""

from collections.abc import Mapping

from flagai.catalog.catalog import name_key
from flagai.errors import InputError
from flagai.families.family import all_families, family_names, is_family

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
        raise InputError(f"task_name is {name!r:.80}; expected a text, such as 'ner'.")
    task = without_alias(name)
    if task not in TASKS:
        raise InputError(
            f"There is no task {name!r:.80}. Known: {', '.join(TASKS)}; also {', '.join(sorted(ALIASES))}."
        )
    return task


def class_names_by_family(task: str) -> dict[str, str]:
    """The names of the classes that do a task, by family: the first of its classes with this task."""
    able = {family.name: [row.name for row in family.classes if task in row.tasks] for family in all_families()}
    return {family: names[0] for family, names in able.items() if names}


def class_name_for(task: str, family: str) -> str:
    """The name of the class that does a task in a family.

    Args:
        task: from :func:`task_named`.
        family: the family's name, such as "glm".

    Raises:
        InputError: models of this family cannot do it; the message says which tasks they can, and who can.
    """
    classes = class_names_by_family(task)
    if not is_family(family):
        raise InputError(
            f"There is no family {family!r:.80}. Known: {', '.join(family_names())}. A family of your own needs "
            "`register_family` before (docs/new-architecture.md), so it works in Python, not on the command line."
        )
    if family not in classes:
        able = [name for name in TASKS if family in class_names_by_family(name)]
        raise InputError(
            f"A {family:.80} model cannot do {task!r}. It can: {', '.join(able) or 'none of the tasks'}. "
            f"{task!r} needs a model of {', '.join(classes)}."
        )
    return classes[family]
