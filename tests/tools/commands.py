"""Commands as a user types them: what they print, or the error that they end in."""

import json
from typing import Any

from typer.testing import CliRunner

from flagai import cli


def run(*arguments: str, text: str | None = None) -> str:
    """What a command prints on the standard output."""
    result = CliRunner().invoke(cli.app, arguments, input=text)
    assert result.exception is None, result.exception
    return result.stdout


def fails(error: type[Exception], *arguments: str, text: str | None = None) -> str:
    """The message of the error that a command ends in."""
    result = CliRunner().invoke(cli.app, arguments, input=text)
    assert isinstance(result.exception, error), result.output
    return str(result.exception)


def lines(output: str) -> list[Any]:
    """JSON lines, parsed."""
    return [json.loads(line) for line in output.splitlines()]
