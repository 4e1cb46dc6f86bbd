"""What every command has: ``-v`` after its name, and errors that name options as they are typed."""

import functools
import inspect
import logging
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from flagai import settings
from flagai.errors import InputError, quoted
from flagai.generation.options import RENAMED_TEXTS

# Arguments of the library whose option has another name: argument -> the command's parameter.
_OTHER_NAMES = {
    "out_max_length": "max_length",
    "max_new_tokens": "max_length",
    "num_beams": "beams",
    "beam_size": "beams",
    "do_sample": "sample",
    "lora_rank": "lora",
    "model_name": "model",
}
# Options that decide how much memory answers take.
_OF_MEMORY = ("batch_size", "beams", "num_return_sequences", "max_length")
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")]


logger = logging.getLogger(__name__)
# Options whose name has changed.
_FORMER_FLAGS = {"--" + old.replace("_", "-"): "--" + new.replace("_", "-") for old, new in RENAMED_TEXTS.items()}


class Command(TyperCommand):
    """A command that understands the former names of its options, with a warning."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See the base class."""
        options = args[: args.index("--")] if "--" in args else args
        given = {option.partition("=")[0]: index for index, option in enumerate(options)}
        for old in _FORMER_FLAGS.keys() & given:
            new, index = _FORMER_FLAGS[old], given[old]
            if new in given:
                raise InputError(f"{old} is the former name of {new}. Give {new} alone.")
            logger.warning("%s is now called %s.", old, new)
            args[index] = new + args[index].removeprefix(old)
        return super().parse_args(ctx, args)


def as_command(function: Callable[..., None]) -> Callable[..., None]:
    """A function as a command.

    Args:
        function: its parameters are the command's arguments and options.
    """
    hints = get_type_hints(function, include_extras=True) | {"verbose": Verbose}
    options = _options(hints)

    @functools.wraps(function)
    def run(*, verbose: bool = False, **values: Any) -> None:
        if verbose:
            log_everything()
        try:
            function(**values)
        except InputError as error:
            error.args = (in_options(str(error), options),)
            raise
        except (RuntimeError, MemoryError) as error:
            _explain_memory(error, options)
            raise

    own = list(inspect.signature(function).parameters.values())
    own.append(inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False))
    typed = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
    run.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    run.__annotations__ = hints
    return run


def _explain_memory(error: Exception, options: Mapping[str, str]) -> None:
    """Say what to lower, if an error says that memory ran out.

    Raises:
        InputError: memory ran out.
    """
    from flagai.checkpoint.memory import is_out_of_memory

    if is_out_of_memory(error):
        cures = [options[name] for name in _OF_MEMORY if name in options]
        advice = f" Lower {', '.join(cures)}, or take a smaller model." if cures else ""
        raise InputError(f"Out of memory ({quoted(error)}).{advice}") from error


def log_everything() -> None:
    """Log what is done, not warnings only; under torchrun, one process per machine does."""
    if not settings.local_rank():
        logging.getLogger().setLevel(logging.INFO)


def in_options(message: str, options: Mapping[str, str]) -> str:
    """A message with options as they are typed in the place of the library's arguments.

    Args:
        message: such as "out_max_length is 0; expected a whole number".
        options: the command's parameters and the option of each.
    """
    message = message.removeprefix("Recipe: ")  # finetune's options are its fields
    names = {**options} | {name: options[own] for name, own in _OTHER_NAMES.items() if own in options}
    for name, option in names.items():
        # A name of one word is an argument only where a value follows.
        pattern = rf"\b{name}\b" if "_" in name else rf"\b{name}(?==)|^{name}(?= (?:is|holds|has) )"
        message = re.sub(rf"(?<![-\w'\"])(?:{pattern})(=?)", lambda found: option + " " * len(found[1]), message)  # noqa: B023
    return message


def _options(hints: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, hint in hints.items():
        for info in get_args(hint)[1:]:
            if isinstance(info, OptionInfo):
                spelled = [entry for entry in info.param_decls or () if entry.startswith("--")]
                found[name] = spelled[0].partition("/")[0] if spelled else "--" + name.replace("_", "-")
    return found
