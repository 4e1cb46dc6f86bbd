"""What holds for every command of the app, found from the app: a new command is tested without a word here."""

import io
import os
import re
import sys

import pytest
import typer
from typer.testing import CliRunner

from flagai import cli
from flagai.errors import FlagAIError
from flagai.model.base_model import BaseModel


def commands(group, *path):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(cli.app)))
NEEDED = {"texts": "a[MASK]", "first": "a", "second": "b"}
# An impossible value of an option, which every command that has the option refuses before it loads a model.
IMPOSSIBLE = {"device": "nowhere", "quantize": "int3", "out": "x.zip", "batch_size": "0", "file": "absent.txt"}


def arguments(path, **options):
    """The command with all that it needs, in texts that name nothing."""
    line, texts = [*path], []
    for entry in COMMANDS[path].params:
        if entry.name in options:
            line += [entry.opts[0], options[entry.name]]
        elif entry.param_type_name == "argument" and (entry.required or entry.name in NEEDED) and "file" not in options:
            texts.append(NEEDED.get(entry.name, "absent"))
        elif entry.required:
            line += [entry.opts[0], "absent"]
    return [*line, *texts]


# A result of any name is a folder; a source that is absent is named first.
OTHERWISE = {(("finetune",), "out"), (("run",), "out"), (("convert",), "quantize"), (("export", "onnx"), "out")}
PAIRS = [
    (path, name)
    for path, entry in COMMANDS.items()
    for name in IMPOSSIBLE
    if name in [parameter.name for parameter in entry.params] and (path, name) not in OTHERWISE
]


@pytest.fixture(autouse=True)
def _nothing_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAGAI_HOME", str(tmp_path))
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    monkeypatch.setattr(BaseModel, "from_pretrain", lambda *_, **__: pytest.fail("a model was loaded"))


def end_of(monkeypatch, line, stdout=None):
    """The exit code of the process, and what it writes to a stderr that is a terminal."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["flagai", *line])
        patch.setattr(sys, "stderr", screen)
        patch.setattr(sys, "stdout", stdout or io.StringIO())
        patch.setattr(os, "dup2", lambda *_: None)  # the tests go on writing
        with pytest.raises(SystemExit) as end:
            cli.main()
    return end.value.code, screen.getvalue()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_it_logs_after_its_name(path):
    assert any({"-v", "--verbose"} <= set(entry.opts) for entry in COMMANDS[path].params)


@pytest.mark.parametrize(
    ("path", "name"), PAIRS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_it_refuses_impossible_options_before_loading(path, name):
    result = CliRunner().invoke(cli.app, arguments(path, **{name: IMPOSSIBLE[name]}))
    option = next(entry.opts[0] for entry in COMMANDS[path].params if entry.name == name)
    assert result.exit_code in (1, 2), result.output
    assert result.exit_code == 2 or isinstance(result.exception, FlagAIError), result.exception
    message = result.output if result.exit_code == 2 else str(result.exception)
    assert option in message or IMPOSSIBLE[name] in message


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_its_reader_may_leave(path, monkeypatch):
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError(32, "Broken pipe")

    assert end_of(monkeypatch, [*path, "--help"], Gone()) == (141, "")


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_its_errors_have_no_colour_if_none_is_wanted(path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    code, shown = end_of(monkeypatch, arguments(path, model="absent", cards="absent", device="nowhere"))
    assert not re.search("\x1b\\[[0-9;]*m", shown)
    assert code in (0, 1, 2)
    assert "Traceback" not in shown
