"""``AutoLoader``: any task with any model for which it makes sense."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flagai.auto_model.lookup import class_name_for, family_in, fine_tuned_name, may_have_head, split_name
from flagai.auto_model.registry import class_named, find_class
from flagai.catalog.tasks import task_named
from flagai.checkpoint.steady import read_one_version
from flagai.data.tokenizer import Tokenizer
from flagai.data.tokenizer.description import has_tokenizer
from flagai.errors import ConfigError, HubError, InputError, LoadError, ModelNotFoundError
from flagai.families.config_content import family_of
from flagai.families.family import family_named
from flagai.hub.local_state import holds_model
from flagai.hub.repository import repository, with_revision
from flagai.model.adapter_folder import AdapterFolders, adapter_classes
from flagai.model.base_model import BaseModel
from flagai.model.device import Device, Dtype, best_device
from flagai.model.opening import FolderReader, load_model
from flagai.resolve import CONFIG_FILE
from flagai.typed_json import read_json

logger = logging.getLogger(__name__)

# Arguments of the original that promise what is not there.
_NOT_THERE = ("qlora_dir", "adapter_dir")
_OF_THE_HEAD = ("class_num", "inner_dim", "problem_type")


class AutoLoader:
    """Loads the model for a task, and its tokenizer.

    A model fine-tuned for the task is taken where there is one: first the folder ``model_dir/model_name-task_name``,
    then the catalog. Otherwise the backbone is loaded, and a head that it lacks is randomly initialized with a warning;
    so it is if the fine-tuned model cannot be fetched, but the backbone is here.

    Args:
        task_name: such as "title-generation", "ner" or "lm"; ``flagai.catalog.tasks`` has all names.
        model_name: a name of the catalog in any case, such as "GLM-large-ch" or "RoBERTa-base-ch-ner", a folder of
            ``model_dir``, (without ``model_dir``) the path of a folder, or a repository such as "owner/name",
            "hf:owner/name@revision" or "modelscope:owner/name". The default is FlagAI's, for every task;
            :func:`flagai.load` takes what suits the task instead (``flagai.catalog.tasks.DEFAULT_MODELS``).
        model_dir: the model directory; default ``FLAGAI_HOME``, or else ``./checkpoints``.
        only_download_config: read only the configuration and initialize the weights randomly.
        device: where the model is placed; default the best device there is.
        torch_dtype: the parameters' type; default the checkpoint's. ``dtype`` is another name of it.
        low_cpu_mem_usage: ignored, as are ``inference_mode``, ``model_max_length`` and ``all_devices``.
        lora_dir: FlagAI's name of ``adapter``.
        qlora_dir: not supported; must be None.
        inference_mode: ignored.
        model_max_length: ignored.
        all_devices: ignored.
        load_pretrain_params: False initializes the weights randomly, as ``only_download_config`` does.
        class_num: number of classes, for heads that need it. Default what config.json or the trained head says; 2 for
            semantic matching.
        target_size: another name of ``class_num``.
        fp16: another way to say ``torch_dtype="float16"``.
        fine_tuned: False takes the model of this very name, to train it, even if there is one that was trained for
            the task.
        otherwise: the task for which a model without a trained head for ``task_name`` is loaded instead, such as "lm",
            or a function that gives it, or raises; ``task_name`` then becomes that task.
        segmenter: for T5-PEGASUS, "jieba" or "characters"; see :meth:`Tokenizer.from_pretrained`.
        dtype: another name of ``torch_dtype``.
        revision: the commit, branch or tag of a repository.
        adapter: the folder of a LoRA adapter of PEFT, or several by their names; see :meth:`BaseModel.from_pretrain`.
        **settings_and_others: ``mesh``, ``fsdp`` and ``quantize`` as in :meth:`BaseModel.from_pretrain`; settings that
            replace those of the configuration.

    Raises:
        InputError: there is no such task, or the model cannot do it; the message has the lists.
        ModelNotFoundError: there is no such model; the message has near ones.
        FlagAIError: see :meth:`BaseModel.from_pretrain`.

    Example:
        >>> loader = AutoLoader("poetry", model_name="GLM-mini-ch")
        >>> predictor = Predictor(loader.get_model(), loader.get_tokenizer())
    """

    def __init__(
        self,
        task_name: str = "lm",
        model_name: str = "RoBERTa-base-ch",
        model_dir: str | Path | None = None,
        only_download_config: bool = False,
        device: Device | None = None,
        torch_dtype: Dtype | None = None,
        low_cpu_mem_usage: bool = True,
        lora_dir: AdapterFolders | None = None,
        qlora_dir: None = None,
        inference_mode: bool = True,
        model_max_length: int | None = None,
        all_devices: bool = False,
        *,
        load_pretrain_params: bool = True,
        class_num: int | None = None,
        target_size: int | None = None,
        fp16: bool = False,
        fine_tuned: bool = True,
        otherwise: str | Callable[[], str] | None = None,
        segmenter: str | None = None,
        dtype: Dtype | None = None,
        revision: str | None = None,
        adapter: AdapterFolders | None = None,
        **settings_and_others: object,
    ) -> None:
        self.task_name = task_named(task_name)
        asked = with_revision(model_name, revision)
        fine_tuned = fine_tuned and repository(asked, model_dir) is None  # a repository is what it is
        home, model_name = split_name(model_dir, asked)
        overrides = _overrides(settings_and_others | {"qlora_dir": qlora_dir})
        adapter = lora_dir if adapter is None else adapter
        torch_dtype = dtype if torch_dtype is None else torch_dtype
        class_num = target_size if class_num is None else class_num
        if class_num is not None:
            overrides["class_num"] = class_num
        options = {
            "only_download_config": only_download_config or not load_pretrain_params,
            "device": best_device() if device is None else device,
            "dtype": "float16" if fp16 and torch_dtype is None else torch_dtype,
            "adapter": adapter,
        }
        found = fine_tuned_name(home, model_name, self.task_name) if fine_tuned else model_name
        choice = _ClassChoice(self.task_name, otherwise, overrides, adapter)
        self.model, self.tokenizer = read_one_version(
            home / found, lambda: _open(choice, home, found, model_name, segmenter, options)
        )
        self.task_name = choice.loaded_for

    def __repr__(self) -> str:
        return f"AutoLoader({self.task_name!r}: {type(self.model).__name__}, {self.tokenizer!r})"

    def get_model(self) -> BaseModel:
        """The model, in evaluation mode."""
        return self.model

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.tokenizer

    def get_task_name(self, brief_model_name: str) -> str:
        """The task with the family, such as "glm_poetry".

        Args:
            brief_model_name: the family, such as "glm".
        """
        return f"{brief_model_name}_{self.task_name}"

    def load_pretrain_params(self, model_path: str | Path) -> None:
        """Load weights into the model, in place; loading is strict.

        Args:
            model_path: a weights file or folder in any known format.
        """
        self.model.load_weights(model_path)


def _overrides(others: dict[str, Any]) -> dict[str, Any]:
    for name in _NOT_THERE:
        if others.get(name) is not None:
            raise InputError(
                f"{name} is not supported. A folder of PEFT is loaded by adapter=, also beside quantize='int4'."
            )
    if "download_path" in others:
        raise InputError("AutoLoader has no argument 'download_path'. Pass the model directory as model_dir.")
    return {name: value for name, value in others.items() if name not in _NOT_THERE}


@dataclass
class _ClassChoice:
    """Chooses the class that does a task."""

    task: str
    # The task for models without a trained head for this one, or what gives it.
    otherwise: str | Callable[[], str] | None
    overrides: Mapping[str, Any]  # settings of the caller
    adapter: AdapterFolders | None = None
    loaded_for: str = ""  # the task for which the model is loaded; known after the choice

    def load(self, home: Path, name: str, options: Mapping[str, Any]) -> BaseModel:
        """Load a model."""
        family = family_in(home, name)
        task = self.task if self.otherwise is None or may_have_head(self.task, family, home, name) else self._other()
        known = class_named(class_name_for(task, family)).config_class.names()
        # What describes the task's head means nothing to a class that has none.
        wanted = {key: value for key, value in self.overrides.items() if key not in _OF_THE_HEAD or key in known}
        model: BaseModel = load_model(partial(self._choose, task, family), home, name, **options, **wanted)
        return model

    def _choose(self, task: str, family: str, folder: FolderReader) -> tuple[type[BaseModel], Mapping[str, int]]:
        if self.otherwise is not None and task == self.task:
            trained, _ = find_class(folder.content, folder.checkpoint)
            task = task if trained.__name__ == class_name_for(task, family) else self._other()
        self.loaded_for, model_class = task, class_named(class_name_for(task, family))
        missing = model_class.needs_classes and "class_num" not in self.overrides
        if missing and self.adapter is not None and (count := adapter_classes(model_class.names, self.adapter)):
            return model_class, {"class_num": count}
        return model_class, _class_count(folder, model_class, task) if missing else {}

    def _other(self) -> str:
        return self.otherwise() if callable(self.otherwise) else str(self.otherwise)


def _open(
    choice: _ClassChoice, home: Path, found: str, model_name: str, segmenter: str | None, options: Mapping[str, Any]
) -> tuple[BaseModel, Tokenizer]:
    try:
        model = choice.load(home, found, options)
    except LoadError as error:
        if found == model_name:
            raise _with_cure(error, home / found, choice.overrides) from error
        raise LoadError(
            f"{error}\n{found} is taken because it was fine-tuned for {choice.task!r}. To take {model_name} "
            "itself, with a new head, add fine_tuned=False."
        ) from error
    except HubError as error:
        if found == model_name or not holds_model(home / model_name, ("config", "weights")):
            raise
        logger.warning("%s Loading %s instead, which was not trained for %s.", error, model_name, choice.task)
        found = model_name
        model = choice.load(home, found, options)
    return model, _tokenizer(home, found, model_name, segmenter)


def _with_cure(error: LoadError, folder: Path, overrides: Mapping[str, Any]) -> LoadError:
    """The error, and where a trained head has another number of classes than is asked for, the way to a new one."""
    family = family_of(read_json(folder / CONFIG_FILE), str(folder)) if (folder / CONFIG_FILE).is_file() else None
    if family is None or "class_num" not in overrides or "of the wrong shape" not in str(error):
        return error
    return LoadError(
        f"{error}\nThe head of {folder} was trained for another number of classes than class_num="
        f"{overrides['class_num']}. To train a new one, take the backbone alone: flagai convert {folder} BACKBONE "
        f"--model-class {family_named(family).classes[0].name}, and start from the folder BACKBONE."
    )


def _class_count(folder: FolderReader, model_class: type[BaseModel], task: str) -> Mapping[str, int]:
    """The number of classes where neither the caller nor config.json says it: that of a trained head in the weights."""
    config = folder.config(model_class, {})
    if config.get("class_num") is not None:
        return {}
    with contextlib.suppress(ModelNotFoundError):
        said = {key: value for key, value in config.to_dict().items() if value is not None}
        found, counted = find_class(said, folder.checkpoint)
        if found is model_class and counted:
            return counted
    if task == "semantic-matching":
        return {"class_num": 2}
    raise ConfigError(
        f"{task!r} needs the number of classes, and {folder.found.folder} has no trained head that tells it: name a "
        "model that was fine-tuned for the task, train this one (flagai finetune), or, in Python, pass class_num=N."
    )


def _tokenizer(home: Path, found: str, model_name: str, segmenter: str | None) -> Tokenizer:
    """The tokenizer from the fine-tuned model's folder if it has one, else from the backbone's."""
    if found != model_name and has_tokenizer(home / found):
        return Tokenizer.from_folder(home / found, segmenter=segmenter)
    return Tokenizer.from_pretrained(model_name, cache_dir=home, segmenter=segmenter)
