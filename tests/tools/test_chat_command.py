"""``flagai chat``: from a pipe, in a terminal, and what Ctrl-C stops."""

import json
import os
import pty
import select
import signal
import sys
import time

import pytest
from typer.testing import CliRunner

from flagai.chat.messages import Message
from flagai.cli import app
from flagai.cli.chat import TerminalChat, read_messages
from flagai.errors import InputError
from flagai.model.predictor.results import Chatted
from tests import folders
from tests.chat.conftest import ROLES, TEMPLATE


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny model that chats."""
    folder = folders.write(tmp_path_factory.mktemp("chat"), "GPT2-base-en", "GPT2Model", vocab_size=50261)
    options = {"tokenizer_class": "GPT2Tokenizer", "additional_special_tokens": ROLES, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return str(folder)


def test_each_line_of_a_pipe_is_answered(model):
    options = ["--search", "--max-new-tokens", "5"]
    one = CliRunner().invoke(app, ["chat", model, *options], input="Hi\n")
    assert one.exit_code == 0, one.output
    assert one.stdout.strip()
    two = CliRunner().invoke(app, ["chat", model, *options], input="Hi\n\n/clear\nHi\n/exit\nHo\n")
    assert two.stdout == one.stdout * 2
    on = CliRunner().invoke(app, ["chat", model, *options], input="Hi\nHi\n")
    assert on.stdout.startswith(one.stdout)


def test_what_cannot_be_answered_ends_a_pipe(model, models):
    far = CliRunner().invoke(app, ["chat", model], input="far " * 300 + "\nHi\n")
    assert isinstance(far.exception, InputError)
    plain = CliRunner().invoke(app, ["chat", "GPT2-base-ch", "--model-dir", str(models)], input="Hi\n")
    assert "not trained to chat" in str(plain.exception)
    idle = CliRunner().invoke(app, ["chat", model, "--search", "--seed", "1"], input="Hi\n")
    assert "--seed has no meaning with --search" in str(idle.exception)


def lines(*texts):
    """What reads these lines, and raises errors among them."""
    coming = iter(texts)

    def read(_prompt):
        text = next(coming, EOFError())
        if isinstance(text, BaseException):
            raise text
        return text

    return read


def test_texts_of_several_lines(capsys):
    read = lines("one", "two\\", "  three\\", "four", '"""', "a", "", 'b"""', '"""c"""', KeyboardInterrupt(), "end")
    assert list(read_messages(read)) == ["one", "two\n  three\nfour", "a\n\nb", "c", "end"]
    assert "Ctrl-D ends" in capsys.readouterr().err


class Answers:
    """A predictor that answers with the number of messages; a text "stop" is interrupted."""

    def __init__(self):
        self.asked = []

    def chat_stream(self, messages, **options):
        self.asked.append(messages)
        return Pieces(messages, options)


class Pieces:
    def __init__(self, messages, options):
        self.text = f"{len(messages)} \x1b[31m{options.get('seed')}"
        self.stops = messages[-1].content == "stop"
        self.closed = False
        if messages[-1].content == "far":
            raise InputError("too long.")

    def __iter__(self):
        yield self.text[:2]
        if self.stops:
            raise KeyboardInterrupt
        yield self.text[2:]

    def close(self):
        self.closed = True

    @property
    def result(self):
        return Chatted(self.text, True, Message("assistant", self.text))


def test_ctrl_c_stops_an_answer_and_not_the_program(capsys):
    predictor = Answers()
    chat = TerminalChat(predictor, {"seed": 7}, "Be kind")
    chat.run(iter(["Hi", "stop", "far", "on", "/clear", "Hi", "/exit", "never"]), interactive=True)
    shown = capsys.readouterr()
    assert [len(messages) for messages in predictor.asked] == [2, 4, 6, 6, 2]
    assert [each.content for each in predictor.asked[3]][3:5] == ["stop", "4 "]
    assert predictor.asked[4][0] == Message("system", "Be kind")
    assert shown.out.splitlines()[0] == "2 \\x1b[31m7"  # nothing that a terminal obeys
    assert "[stopped]" in shown.err
    assert "too long. /clear" in shown.err
    with pytest.raises(InputError, match="too long"):
        chat.run(iter(["far"]), interactive=False)


@pytest.mark.slow
def test_a_terminal(model):
    """A real process on a real terminal: the arrow key brings a line back, Ctrl-C at any time, Ctrl-D ends."""
    child, screen = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "flagai", "chat", model, "--search", "--max-new-tokens", "200"])
    shown, ended = "", (0, 0)

    def until(ending):
        nonlocal shown
        end, begin = time.monotonic() + 30, len(shown)
        while ending not in shown[begin:] and time.monotonic() < end:
            if select.select([screen], [], [], 1)[0]:
                shown += os.read(screen, 4096).decode(errors="replace")
        assert ending in shown[begin:], shown

    try:
        until("> ")
        os.write(screen, b"Hello\n")
        until("\r\n> ")
        os.write(screen, b"\x1b[A\n")
        until("Hello\r\n")
        os.kill(child, signal.SIGINT)
        until("\r\n> ")
        os.kill(child, signal.SIGINT)
        until("Ctrl-D ends.\r\n> ")
        os.write(screen, b"\x04")
        end = time.monotonic() + 30
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.1)
        assert ended[0] == child
        assert os.waitstatus_to_exitcode(ended[1]) == 0
    finally:
        if ended == (0, 0):
            os.kill(child, signal.SIGKILL)
    assert "Traceback" not in shown
