"""What a task and a model's name lead to: its folder, family and head, before anything is loaded."""

import os
from contextlib import suppress
from pathlib import Path

from flagai import settings
from flagai.catalog.catalog import find, find_for_task
from flagai.catalog.packages import any_case, find_model
from flagai.catalog.tasks import TASKS
from flagai.checks import check_path
from flagai.errors import InputError, ModelNotFoundError
from flagai.families.config_content import family_of
from flagai.families.family import all_families, family_named, family_names, is_family
from flagai.hub.repository import fetch_repository
from flagai.resolve import CONFIG_FILE, refuse_adapter
from flagai.typed_json import read_json


def class_names_by_family(task: str) -> dict[str, str]:
    """The names of the classes that do a task, by family: the first of its classes with this task."""
    able = {family.name: [row.name for row in family.classes if task in row.tasks] for family in all_families()}
    return {family: names[0] for family, names in able.items() if names}


def class_name_for(task: str, family: str) -> str:
    """The name of the class that does a task in a family.

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


def split_name(model_dir: str | Path | None, model_name: str | Path) -> tuple[Path, str]:
    """The model directory and the model's name in it; without ``model_dir``, a name may be a path.

    The configuration and the tokenizer of a repository are fetched here: they tell its family.

    Raises:
        HubError: the repository is not here and cannot be fetched.
    """
    path = check_path("model_name", model_name)
    home = settings.home() if model_dir is None else check_path("model_dir", model_dir)
    if not str(model_name):
        raise InputError("model_name is empty; expected a model's name or folder.")
    if model_dir is None and path.is_dir():
        return path.absolute().parent, path.absolute().name
    folder = fetch_repository(model_name, model_dir, ("config", "tokenizer"))
    return home, str(model_name) if folder is None else folder.relative_to(Path(home).expanduser()).as_posix()


def fine_tuned_name(home: Path, name: str, task: str) -> str:
    """The name of the model that was fine-tuned for a task; the model's own name if it is one, or none is found.

    A folder ``name-task`` on this machine comes first; only then is the catalog asked.
    """
    with suppress(ModelNotFoundError):
        if find(name).base is not None:
            return name
    local = f"{name}-{task}"
    if os.path.isdir(own := any_case(home, local)):
        return own.name if "/" not in local else local
    try:
        card = find_for_task(name, task)
    except ModelNotFoundError:
        return name
    return name if card.base is None else card.name


def family_in(home: Path, name: str) -> str:
    """The family of a model that is here, by its configuration, or of the catalog's card."""
    config = home / name / CONFIG_FILE
    if config.is_file():
        family = family_of(read_json(config), str(config))
        if family is not None:
            return family
    try:
        return find(name).family
    except ModelNotFoundError as error:
        folder = (home / name).absolute()
        refuse_adapter(folder)
        found = f"{folder} has no {CONFIG_FILE}" if folder.is_dir() else f"There is no folder {folder}"
        raise ModelNotFoundError(f"{found}. {error}") from error


def family_at(model_name: str, model_dir: str | Path | None = None) -> str:
    """The family of a model, by its folder or its card, before anything is loaded.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    home, name = split_name(model_dir, model_name)
    return family_in(home, name)


def may_have_head(task: str, family: str, home: Path, name: str) -> bool:
    """Whether a model may have a trained head for a task, before its weights are here: by its card, until they are."""
    if class_name_for(task, family) == class_name_for("lm", family):
        return False
    with suppress(ModelNotFoundError):
        find_model(name, home, holds=lambda folder: (folder / CONFIG_FILE).is_file())
        return True
    with suppress(ModelNotFoundError):
        return find(name).task == task
    return False


def scores_labels(model_name: str, model_dir: str | Path | None = None) -> bool:
    """Whether a model without a trained head classifies by the names of the classes, as language models do.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    family = family_named(family_at(model_name, model_dir))
    return "predict_cls_classifier" in family.by_name[class_name_for("lm", family.name)].methods
