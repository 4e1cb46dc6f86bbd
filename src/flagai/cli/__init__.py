"""The command line: one file of this package per group of commands."""

import sys
from typing import Annotated, NoReturn

import typer

from flagai import __version__
from flagai.cli import catalog, checkpoints, embedding, hub, reading, training, writing
from flagai.cli.common import rank_prefix, speak_with_one_voice
from flagai.errors import FlagAIError

app = typer.Typer(
    name="flagai",
    help="The pretrained language models of FlagAI's model module: GLM, BERT/RoBERTa, GPT-2 and T5.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(catalog.list_command)
app.command("show")(catalog.show)
app.command("download")(hub.download)
app.command("verify")(hub.verify)
app.add_typer(hub.cache, name="cache")
app.command("title")(writing.title)
app.command("poem")(writing.poem)
app.command("write")(writing.write)
app.command("fill")(writing.fill)
app.command("ner")(reading.ner)
app.command("classify")(reading.classify)
app.command("match")(embedding.match)
app.command("embed")(embedding.embed)
app.command("finetune")(training.finetune)
app.command("convert")(checkpoints.convert)
app.command("doctor")(checkpoints.doctor)


def main() -> None:
    """Run the command line; errors of flagai end it with one message and exit code 1."""
    try:
        app()
    except FlagAIError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        sys.exit(0)


def _fail(message: str) -> NoReturn:
    typer.echo(rank_prefix(), nl=False, err=True)
    typer.secho("error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.echo(message, err=True)
    sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flagai {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is going on.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    speak_with_one_voice(verbose)
