"""The command line: one file of this package per group of commands."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flagai import __version__, settings
from flagai.catalog.tasks import ALIASES
from flagai.checkpoint.atomic import is_full
from flagai.cli import (
    catalog,
    chat,
    checkpoints,
    embedding,
    environment,
    export,
    hub,
    jobs,
    reading,
    serving,
    training,
    writing,
)
from flagai.cli.command import Command, Verbose, configure_logging, rank_prefix
from flagai.cli.translation import Localized, translate
from flagai.errors import FlagAIError
from flagai.system import WINDOWS, use_utf8

COMMANDS: dict[str, Callable[..., None]] = {
    "list": catalog.list_command,
    "show": catalog.show,
    "download": hub.download,
    "verify": hub.verify,
    "push": hub.push,
    "title": writing.title,
    "poem": writing.poem,
    "write": writing.write,
    "fill": writing.fill,
    "ner": reading.ner,
    "classify": reading.classify,
    "match": embedding.match,
    "embed": embedding.embed,
    "run": jobs.run,
    "serve": serving.serve,
    "chat": chat.chat,
    "finetune": training.finetune,
    "evaluate": training.evaluate,
    "convert": checkpoints.convert,
    "doctor": checkpoints.doctor,
    "env": environment.env,
}
# Names of tasks that are commands of another name.
TASK_COMMANDS = {
    "title-generation": "title",
    "poetry": "poem",
    "writing": "write",
    "masklm": "fill",
    "classification": "classify",
    "semantic-matching": "match",
    "embedding": "embed",
}
# The options of the task's command follow those of `flagai run`.
_SETTINGS: dict[str, dict[str, Any]] = {"run": {"allow_extra_args": True, "ignore_unknown_options": True}}
# What shells report for a command whose reader has gone, as of `command | head -1`.
_READER_GONE = 141


class _TaskCommandGroup(Localized, TyperGroup):
    """Commands, which the names of their tasks call as well."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        if settings.is_chinese():
            translate(self)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name, or by a name of its task."""
        key = cmd_name.lower().replace("_", "-")
        return super().get_command(ctx, cmd_name) or super().get_command(
            ctx, TASK_COMMANDS.get(ALIASES.get(key, key), key)
        )


app = typer.Typer(
    cls=_TaskCommandGroup,
    name="flagai",
    help="Load, run and fine-tune FlagAI's pretrained models: GLM, BERT/RoBERTa, GPT-2 and T5.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would swallow [sMASK]
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _function in COMMANDS.items():
    app.command(_name, cls=Command, context_settings=_SETTINGS.get(_name))(_function)
app.add_typer(hub.cache, name="cache")
app.add_typer(export.group, name="export")


def main() -> None:
    """Run the command line; an error of flagai ends it with one message and exit code 1."""
    use_utf8()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except FlagAIError as error:
        sys.exit(_failed(str(error)))
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            _leave_quietly()
        raise
    except BrokenPipeError:
        _leave_quietly()
    except OSError as error:
        if WINDOWS and error.errno == errno.EINVAL:  # what Windows says of a pipe without a reader
            _leave_quietly()
        if not is_full(error):
            raise
        _forget_output()
        sys.exit(_failed(f"The standard output cannot be written: {error.strerror}."))


def _leave_quietly() -> None:
    _forget_output()
    sys.exit(_READER_GONE)


def _forget_output() -> None:
    """Let Python write what is left of the output nowhere, so that it does not complain when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _failed(message: str) -> int:
    colour = False if settings.no_color() else None
    typer.echo(rank_prefix(), nl=False, err=True)
    typer.secho("error: ", fg=typer.colors.RED, bold=True, nl=False, err=True, color=colour)
    typer.echo(message, err=True)
    return 1


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flagai {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    verbose: Verbose = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if settings.no_color():
        context.color = False
    configure_logging(verbose)
