"""Models for commands."""

from typing import TYPE_CHECKING, Any

import typer

from flagai import settings
from flagai.catalog.tasks import DEFAULT_MODELS
from flagai.cli.options import TaskOptions
from flagai.errors import HubError, OfflineError

if TYPE_CHECKING:
    from flagai.model.predictor.predictor import Predictor

SHIPPED = DEFAULT_MODELS["poetry"][0]
_SHIPPED_TASKS = [task for task, names in DEFAULT_MODELS.items() if SHIPPED in names]
_SHIPPED_FOR = "flagai poem, title, write and fill, in Chinese"


def predictor(task: str, options: TaskOptions, quantize: str | None = None, instead: str | None = None) -> "Predictor":
    """A model and its tokenizer, joined for a task; under torchrun, one model is shared by the processes of a machine.

    Loaded late, because torch takes seconds to import.

    Args:
        task: the task's name.
        options: the model, the folder of models and the device.
        quantize: "int8" or "int4" keeps the weights in fewer bits.
        instead: a model that ships with flagai, to take if the other one cannot be fetched.

    Raises:
        HubError: the model cannot be fetched.
    """
    from flagai.auto_model.auto_loader import AutoLoader
    from flagai.model.predictor.predictor import Predictor

    check_place(options.device, quantize)
    place: dict[str, Any] = {"device": options.device, "quantize": quantize}
    if settings.world_size() > 1:
        place["mesh"] = "auto"
    try:
        loader = AutoLoader(task, model_name=options.model, model_dir=options.model_dir, **place)
        return Predictor(loader.get_model(), loader.get_tokenizer())
    except HubError as error:
        if instead is None:
            if task not in _SHIPPED_TASKS:
                raise
            raise type(error)(f"{error}\nWithout a download: {SHIPPED} ({_SHIPPED_FOR}).") from error
        reason = "offline mode is on" if isinstance(error, OfflineError) else "no source gave it; -v says more"
    typer.echo(f"{options.model} cannot be fetched ({reason}): using {instead}, which ships with flagai.", err=True)
    loader = AutoLoader(task, model_name=instead, **place)
    return Predictor(loader.get_model(), loader.get_tokenizer())


def check_place(device: str | None, quantize: str | None = None) -> None:
    """Refuse a device or a way to quantize before a model is looked for.

    Raises:
        InputError: there is none of this name.
    """
    from flagai.model.device import read_device
    from flagai.model.quantization import read_bits

    if device is not None:
        read_device(device)
    if quantize is not None:
        read_bits(quantize)
