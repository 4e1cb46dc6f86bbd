"""Functions as commands: groups of options, ``-v`` after the name, and errors that name options as they are typed."""

import dataclasses
import functools
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo, ParameterInfo

from flagai import settings
from flagai.cli.translation import Localized
from flagai.errors import InputError, quoted
from flagai.generation.options import RENAMED_TEXTS
from flagai.model.config_fields import field_specs

logger = logging.getLogger(__name__)

# Arguments of the library whose option has another name: argument -> the command's parameter.
_OTHER_NAMES = {
    "out_max_length": "max_length",
    "max_new_tokens": "max_length",
    "maxlen": "max_length",
    "num_beams": "beams",
    "beam_size": "beams",
    "do_sample": "sample",
    "model_name": "model",
}
# Options whose name has changed.
_FORMER_FLAGS = {"--" + old.replace("_", "-"): "--" + new.replace("_", "-") for old, new in RENAMED_TEXTS.items()}
# Options that decide how much memory answers take.
_OF_MEMORY = ("batch_size", "beams", "num_return_sequences", "max_length")
# The command that runs, and the values of its parameters.
CALLED: ContextVar[tuple[str, Mapping[str, Any]]] = ContextVar("called")
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print log messages (level INFO).")]


class Command(Localized, TyperCommand):
    """A command that understands the former names of its options, with a warning."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments after former names of options have become present ones."""
        options = args[: args.index("--")] if "--" in args else args
        given = {option.partition("=")[0]: index for index, option in enumerate(options)}
        for old in _FORMER_FLAGS.keys() & given:
            new, index = _FORMER_FLAGS[old], given[old]
            if new in given:
                raise InputError(f"{old} is the former name of {new}. Give {new} alone.")
            logger.warning("%s is now called %s.", old, new)
            args[index] = new + args[index].removeprefix(old)
        return super().parse_args(ctx, args)


def command(
    without: Sequence[str] = (), spelled: Mapping[str, Sequence[str]] | None = None, **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function, whose parameters are the command's arguments and options.

    A parameter whose type is a dataclass stands for one option per field. The field's type declares the option
    (``typer.Option``), or else :func:`flagai.model.config_fields.setting` has its range and its help.

    Args:
        without: fields that are no options of this command.
        spelled: the options of fields that are not spelled like them.
        **defaults: defaults of fields where this command has others.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(function).parameters.items():
            if name in groups:
                parameters += _options_of(groups[name], without, spelled or {}, defaults)
            else:
                parameters.append(_parameter(name, hints[name], parameter.default))
        parameters.append(_parameter("verbose", Verbose, default=False))
        options = _spellings(parameters)

        @functools.wraps(function)
        def run(*, verbose: bool = False, **values: Any) -> None:
            called = CALLED.set((function.__name__, {**values}))
            if verbose and not settings.local_rank():
                logging.getLogger().setLevel(logging.INFO)
            try:
                for name, group in groups.items():
                    known = [field.name for field in dataclasses.fields(group)]
                    chosen = {field: values.pop(field) for field in known if field in values}
                    values[name] = group(**{field: defaults[field] for field in known if field in defaults} | chosen)
                function(**values)
            except InputError as error:
                error.args = (in_options(str(error), options),)
                raise
            except (RuntimeError, MemoryError) as error:
                _explain_memory(error, options)
                raise
            finally:
                CALLED.reset(called)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _options_of(
    group: Any, without: Sequence[str], spelled: Mapping[str, Sequence[str]], defaults: Mapping[str, Any]
) -> Iterator[inspect.Parameter]:
    """The parameters that a dataclass stands for."""
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        name, hint = field.name, hints[field.name]
        if name in without:
            continue
        if not any(isinstance(note, ParameterInfo) for note in get_args(hint)):
            hint = _documented(group, name, spelled.get(name) or [_option(name)])
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        yield _parameter(name, hint, defaults.get(name, default))


def _documented(group: type, name: str, spelled: Sequence[str]) -> Any:
    """The option of a field that ``setting`` declares."""
    spec = field_specs(group)[name]
    plain = spec.types[0] | None if spec.nullable else spec.types[0]
    low = None if spec.range is None else spec.range[0]
    return Annotated[plain, typer.Option(*spelled, min=low, help=f"{spec.doc[:1].upper()}{spec.doc[1:]}.")]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _spellings(parameters: Sequence[inspect.Parameter]) -> dict[str, str]:
    """The options of a command as they are typed, by the names of its parameters."""
    found = {}
    for parameter in parameters:
        for info in get_args(parameter.annotation)[1:]:
            if isinstance(info, OptionInfo):
                long = [entry for entry in info.param_decls or () if entry.startswith("--")]
                found[parameter.name] = long[0].partition("/")[0] if long else _option(parameter.name)
    return found


def given(context: typer.Context, *names: str) -> list[str]:
    """Those of some options that stand on the command line, as they are typed."""
    on_line = typed(context)
    return [_option(name) for name in names if name in on_line]


def typed(context: typer.Context) -> list[str]:
    """The parameters that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _explain_memory(error: Exception, options: Mapping[str, str]) -> None:
    """Say what to lower, if an error says that memory ran out.

    Raises:
        InputError: memory ran out.
    """
    from flagai.checkpoint.out_of_memory import is_out_of_memory

    if is_out_of_memory(error):
        cures = [options[name] for name in _OF_MEMORY if name in options]
        advice = f" Lower {', '.join(cures)}, or take a smaller model." if cures else ""
        raise InputError(f"Out of memory ({quoted(error)}).{advice}") from error


def in_options(message: str, options: Mapping[str, str]) -> str:
    """A message with options as they are typed in the place of the library's arguments."""
    message = message.removeprefix("Recipe: ")  # finetune's options are its fields
    names = {**options} | {name: options[own] for name, own in _OTHER_NAMES.items() if own in options}
    for name, option in names.items():
        # A name of one word is an argument only where a value follows.
        pattern = rf"\b{name}\b" if "_" in name else rf"\b{name}(?==)|^{name}(?= (?:is|holds|has) )"
        message = re.sub(rf"(?<![-\w'\"])(?:{pattern})(=?)", lambda found: option + " " * len(found[1]), message)  # noqa: B023
    return message


def configure_logging(verbose: bool) -> None:
    """Set up logging; under torchrun, only the first process prints results, and one per machine logs.

    The others still say what goes wrong, with their number in front.
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
