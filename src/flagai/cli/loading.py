"""Models for commands."""

from typing import TYPE_CHECKING, Any

import typer

from flagai import settings
from flagai.catalog.tasks import DEFAULT_MODELS
from flagai.cli.command import given
from flagai.cli.input import SAMPLES
from flagai.cli.options import BeamOptions, TaskOptions
from flagai.errors import HubError

if TYPE_CHECKING:
    from flagai.pipelines import TaskPipeline

_SHIPPED = DEFAULT_MODELS["poetry"][0]
_SHIPPED_FOR = "flagai poem, title, write and fill, in Chinese"


def load_pipeline(
    task: str, options: TaskOptions, context: typer.Context | None = None, **place: Any
) -> "TaskPipeline":
    """A model for a task; under torchrun, one model is shared by the processes of a machine.

    Loaded late, because torch takes seconds to import.

    Args:
        task: the task's name.
        options: the model, the model directory and the device.
        context: the command's; where it names no model, the task's next default is taken if the first cannot be had.
        **place: further arguments of ``AutoLoader``.

    Raises:
        HubError: the model cannot be fetched.
    """
    from flagai.loading import load_first

    check_place(options.device, place.get("quantize"))
    if settings.world_size() > 1 and SAMPLES.get() is None:  # the processes of a job have a model each
        place["mesh"] = "auto"
    names = (options.model,) if context is None or given(context, "model") else DEFAULT_MODELS[task]
    place |= {"download_path": options.model_dir, "device": options.device, "adapter": options.adapter}
    try:
        found = load_first(task, names, tell=lambda line: typer.echo(line, err=True), **place)
    except HubError as error:
        if _SHIPPED not in DEFAULT_MODELS.get(task, ()):
            raise
        raise type(error)(f"{error}\nWithout a download: {_SHIPPED} ({_SHIPPED_FOR}).") from error
    if isinstance(options, BeamOptions) and options.memory is not None:
        found.predictor.memory = options.memory * 2**20
    return found


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
