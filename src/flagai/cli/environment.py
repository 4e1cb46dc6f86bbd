"""``flagai env``."""

from typing import Annotated, Any

import typer

from flagai.cli.command import command
from flagai.cli.output import print_json
from flagai.errors import printable


@command()
def env(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what a report of a bug needs: versions, devices, packages, folders, variables; secrets are hidden."""
    from flagai.environment import report

    found = report()
    if as_json:
        print_json(found)
        return
    for section, values in found.items():
        if values:
            typer.echo(section)
        for name, value in values.items():
            typer.echo(printable(f"  {name}: {_text(value)}"))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " + ".join(map(_text, value))
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)
