"""What several commands share: options, reading lines, printing JSON."""

import gzip
import json
import logging
import os
import re
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flagai import settings
from flagai.cli.formats import GZIP
from flagai.errors import HubError, InputError, OfflineError

if TYPE_CHECKING:
    from flagai.model.predictor.predictor import Predictor

SHIPPED = "GLM-mini-ch"
# What it can do: AutoLoader's tasks, and the commands.
_SHIPPED_TASKS = ("title-generation", "poetry", "writing", "masklm")
_SHIPPED_FOR = "flagai poem, title, write and fill, in Chinese"
_SURROGATE = re.compile("[\ud800-\udfff]")
Cards = Annotated[Path | None, typer.Option(help="A folder with cards of your own; see also FLAGAI_CARDS.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def read_text(file: Path) -> str:
    """The text of a file, also of a gzipped one, or of the standard input for ``-``.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        if str(file) == "-":
            text = sys.stdin.buffer.read().decode("utf-8")  # whatever the locale says
        elif file.suffix == GZIP:
            text = gzip.decompress(file.read_bytes()).decode("utf-8")
        else:
            text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file_name(file)} is not UTF-8 (byte {error.start}). Convert it first.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file_name(file)} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    return text.removeprefix("\ufeff")  # some editors begin a file so


def file_name(file: Path) -> str:
    """A file's name for messages; ``-`` is the standard input."""
    return "the standard input" if str(file) == "-" else str(file)


def as_typed(text: str, place: str) -> str:
    """A text of the command line, read as UTF-8 also where the locale is another one.

    Args:
        text: the argument; Python writes bytes that the locale does not know as lone surrogates.
        place: which argument it is, for the message.

    Raises:
        InputError: it is not UTF-8.
    """
    if not _SURROGATE.search(text):
        return text
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError as error:
        raise InputError(f"{place} is not UTF-8: {text[:60]!r}. Convert it first.") from error


def read_lines(file: Path) -> list[str]:
    """The lines of a file or of the standard input, see :func:`read_text`, without blank ones at the end."""
    text = read_text(file)
    # Only a newline ends a line: texts may hold other separators.
    return [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")] if text.strip() else []


def to_json(entry: object) -> str:
    """A value as one line of JSON; lone surrogates, which no file can hold, stay escaped."""
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(entry, ensure_ascii=False))


def print_json(entry: object) -> None:
    """Print a value as one line of JSON."""
    typer.echo(to_json(entry))


def predictor(
    task: str,
    model: str,
    model_dir: Path | None,
    device: str | None,
    quantize: str | None = None,
    instead: str | None = None,
) -> "Predictor":
    """A model and its tokenizer, joined for a task; under torchrun, one model is shared by the processes of a machine.

    Loaded late, because torch takes seconds to import.

    Args:
        task: the task's name.
        model: the model's name or folder.
        model_dir: the folder of models.
        device: where to run; None is the best device there is.
        quantize: "int8" or "int4" keeps the weights in fewer bits.
        instead: a model that ships with flagai, to take if the other one cannot be fetched.

    Raises:
        HubError: the model cannot be fetched.
    """
    from flagai.auto_model.auto_loader import AutoLoader
    from flagai.model.predictor.predictor import Predictor

    check_place(device, quantize)
    shared: dict[str, Any] = {"mesh": "auto"} if settings.world_size() > 1 else {}
    options = {"device": device, "quantize": quantize, **shared}
    try:
        loader = AutoLoader(task, model_name=model, model_dir=model_dir, **options)
        return Predictor(loader.get_model(), loader.get_tokenizer())
    except HubError as error:
        if instead is None:
            if task not in _SHIPPED_TASKS:
                raise
            raise type(error)(f"{error}\nWithout a download: {SHIPPED} ({_SHIPPED_FOR}).") from error
        reason = "offline mode is on" if isinstance(error, OfflineError) else "no source gave it; -v says more"
    typer.echo(f"{model} cannot be fetched ({reason}): using {instead}, which ships with flagai.", err=True)
    loader = AutoLoader(task, model_name=instead, **options)
    return Predictor(loader.get_model(), loader.get_tokenizer())


def shipped_by_default(context: typer.Context) -> str | None:
    """The model that ships with flagai, if the user has named none with --model."""
    source = context.get_parameter_source("model")
    return SHIPPED if source is not None and source.name == "DEFAULT" else None


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


def speak_with_one_voice(verbose: bool) -> None:
    """Set up logging; under torchrun, only the first process prints results, and one per machine logs.

    The others still say what goes wrong, with their number in front.

    Args:
        verbose: log what is going on, not warnings only.
    """
    level = logging.INFO if verbose else logging.WARNING
    level = logging.ERROR if settings.local_rank() else level
    logging.basicConfig(level=level, format=f"{rank_prefix()}%(levelname)s %(message)s")
    if not settings.local_rank():  # a download that takes long says so, also without a terminal
        logging.getLogger("flagai.hub.progress").setLevel(logging.INFO)
    if settings.rank():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends


def rank_prefix() -> str:
    """What stands before messages under torchrun: this process' number."""
    return f"[rank {settings.rank()}] " if settings.world_size() > 1 else ""
