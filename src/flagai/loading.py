"""``flagai.load``: a task and, if one likes, a model's name in; a model that is called with texts out."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from flagai.catalog.tasks import DEFAULT_MODELS, task_named
from flagai.checks import check_path
from flagai.errors import CatalogError, HubError, InputError, ModelNotFoundError, OfflineError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from flagai.model.adapter_folder import AdapterFolders
    from flagai.model.device import Device, Dtype
    from flagai.pipelines import (
        ClassificationPipeline,
        EmbeddingPipeline,
        EntityPipeline,
        FillPipeline,
        MatchingPipeline,
        TaskPipeline,
        TextGenerationPipeline,
    )

logger = logging.getLogger(__name__)

Place = str | Path | None
# AutoLoader's names of arguments, and those of flagai.load.
_AUTO_LOADER_NAMES = {"model_name": "model", "model_dir": "download_path", "cache_dir": "download_path"}


class LoadOptions(TypedDict, total=False):
    """What :func:`load` takes by keyword; settings of the configuration go with them.

    Args:
        download_path: the model directory; default ``FLAGAI_HOME``, or else ``./checkpoints``.
        device: where to run; default the best device of this machine.
        dtype: the parameters' type; default the checkpoint's (embeddings on a CPU: float32).
        quantize: "int8" or "int4" keeps the weights in fewer bits.
        mesh: "auto" shares the model between the processes of torchrun.
        class_num: the number of classes, for a head that needs it.
        fine_tuned: False takes the model of this very name, even if another one was fine-tuned for the task.
        segmenter: for T5-PEGASUS, "jieba" or "characters".
        revision: the commit, branch or tag of a repository.
        adapter: the folder of a LoRA adapter of PEFT, or several by their names, of which each call chooses one.
    """

    download_path: Place
    device: "Device | None"
    dtype: "Dtype | None"
    quantize: str | None
    mesh: "DeviceMesh | Literal['auto'] | None"
    class_num: int | None
    fine_tuned: bool
    segmenter: str | None
    revision: str | None
    adapter: "AdapterFolders | None"


@overload
def load(
    task: Literal["poetry", "title-generation", "writing", "lm", "seq2seq"],
    model: str | None = ...,
    **options: Unpack[LoadOptions],
) -> "TextGenerationPipeline": ...
@overload
def load(task: Literal["masklm"], model: str | None = ..., **options: Unpack[LoadOptions]) -> "FillPipeline": ...
@overload
def load(
    task: Literal["ner", "ner-crf", "ner-gp"], model: str | None = ..., **options: Unpack[LoadOptions]
) -> "EntityPipeline": ...
@overload
def load(task: Literal["classification"], model: str, **options: Unpack[LoadOptions]) -> "ClassificationPipeline": ...
@overload
def load(
    task: Literal["embedding"], model: str | None = ..., **options: Unpack[LoadOptions]
) -> "EmbeddingPipeline": ...
@overload
def load(
    task: Literal["semantic-matching"], model: str | None = ..., **options: Unpack[LoadOptions]
) -> "MatchingPipeline": ...
@overload
def load(task: str, model: str | None = ..., **options: Unpack[LoadOptions]) -> "TaskPipeline": ...
def load(task: str, model: str | None = None, **options: Any) -> "TaskPipeline":
    """Load a model for a task, ready to be called with a text or a list of texts.

    Args:
        task: "title-generation", "poetry", "writing", "masklm", "ner", "classification", "semantic-matching",
            "embedding" or another task of ``AutoLoader``.
        model: a name of the catalog, a model's folder, or a repository such as "owner/name",
            "hf:owner/name@revision" or "modelscope:owner/name". Default: the first model for the task that can be had
            (``flagai.list_models(task=...)`` shows all).
        **options: see :class:`LoadOptions`.

    Returns:
        What is called with a text or a list of texts; it has ``predictor``, ``model`` and ``tokenizer``.

    Raises:
        InputError: there is no such task or argument, the model cannot do it, or the task has no default model.
        ModelNotFoundError: the model is neither on this machine nor in the catalog.
        HubError: the model cannot be downloaded.

    Example:
        >>> flagai.load("poetry")("春江花月夜", seed=1)
    """
    from flagai.auto_model.lookup import scores_labels
    from flagai.hub.repository import with_revision

    for name, own in _AUTO_LOADER_NAMES.items():
        if name in options:
            raise InputError(f"flagai.load has no argument {name!r}. Pass it as {own}=.")
    task = task_named(task)
    if model is not None:
        check_path("model", model)
        model = str(with_revision(model, options.pop("revision", None)))
    elif task not in DEFAULT_MODELS:
        raise InputError(f"{task!r} has no default model: name one that was fine-tuned for it. {_offers(task)}")
    try:
        if task == "semantic-matching":
            options = {"otherwise": "embedding", "fine_tuned": False, **options}
        elif task == "classification" and scores_labels(str(model), options.get("download_path")):
            options = {"otherwise": "lm", **options}
        return load_first(task, DEFAULT_MODELS[task] if model is None else (model,), **options)
    except (HubError, ModelNotFoundError) as error:
        raise type(error)(f"{error}\n{_offers(task)}") from error


def load_first(
    task: str,
    names: Sequence[str],
    *,
    download_path: Place = None,
    tell: Callable[[str], None] = logger.warning,
    **options: Any,
) -> "TaskPipeline":
    """The first of some models that can be had, as a pipeline.

    Args:
        task: the task.
        names: the models' names, the best first.
        download_path: the model directory.
        tell: called with a message if the first one could not be had.
        **options: see :func:`load`.

    Raises:
        FlagAIError: see :func:`load`.
    """
    from flagai.auto_model.auto_loader import AutoLoader
    from flagai.pipelines import PIPELINES

    if download_path is not None:
        check_path("download_path", download_path)
    for name, following in zip(names, (*names[1:], None), strict=True):
        try:
            loader = AutoLoader(task, name, download_path, **options)
            if loader.task_name == "embedding" and options.get("dtype") is None and loader.model.device.type == "cpu":
                loader.model.float()
            return PIPELINES[task](task, name, loader)
        except (HubError, ModelNotFoundError) as error:
            if following is None:
                raise
            reason = "offline mode is on" if isinstance(error, OfflineError) else "no source gave it; the log says more"
            tell(f"{name} cannot be fetched ({reason}): using {following}, which ships with flagai.")
            logger.info("%s", error)
    raise AssertionError


def _offers(task: str) -> str:
    """Which tasks run without a download, and where the models for a task are listed."""
    from flagai.listing import list_models

    try:
        here = [f"{info.name} ({', '.join(info.tasks)})" for info in list_models() if info.downloaded]
    except CatalogError as error:  # a card of the user's is broken, which must not hide what went wrong
        return str(error)
    return f"Without a download: {', '.join(here) or 'none'}. flagai.list_models(task={task!r}) shows the models."
