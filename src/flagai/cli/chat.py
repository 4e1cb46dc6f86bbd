"""``flagai chat``: a conversation in a terminal, or line by line from a pipe."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flagai import settings
from flagai.cli.command import command, given
from flagai.cli.loading import check_place
from flagai.cli.options import Adapter, ModelDir
from flagai.errors import InputError, printable

if TYPE_CHECKING:
    from flagai.chat.messages import Message
    from flagai.model.predictor.predictor import Predictor

_PROMPT, _MORE = "> ", "… "
_BLOCK = '"""'
_HELP = f"""/clear forgets the conversation, /exit (or Ctrl-D) ends, Ctrl-C stops an answer.
A line that ends with \\ goes on in the next one; {_BLOCK} begins and ends a text of several lines."""
_SAMPLING = ("temperature", "top_p", "top_k", "seed")


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """How a model chats."""

    system: Annotated[str | None, typer.Option(help="System message: instructions before the conversation.")] = None
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of generated tokens per answer. Default: 2048.")
    ] = None
    sample: Annotated[
        bool | None,
        typer.Option(
            "--sample/--search", help="Sample, or take the most likely tokens. Default: the model authors' settings."
        ),
    ] = None
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of sampling; above 1, answers are more diverse.")
    ] = None
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Sample from the most likely tokens with this total probability.")
    ] = None
    top_k: Annotated[int | None, typer.Option(min=0, help="Sample from the k most likely tokens (0: all).")] = None
    seed: Annotated[int | None, typer.Option(help="Random seed of sampling.")] = None
    model_dir: ModelDir = None
    device: Annotated[
        str | None, typer.Option(help="Device, such as cpu or cuda:1. Default: the GPU if there is one, else the CPU.")
    ] = None
    quantize: Annotated[str | None, typer.Option(help="Weight-only quantization: int8 or int4.")] = None
    adapter: Adapter = None

    def arguments(self, context: typer.Context) -> dict[str, Any]:
        """The options of ``Predictor.chat``.

        Raises:
            InputError: an option would change nothing.
        """
        idle = given(context, *_SAMPLING) if self.sample is False else []
        if idle:
            raise InputError(f"{', '.join(idle)} has no meaning with --search. Leave it out.")
        found = {name: getattr(self, name) for name in ("max_new_tokens", *_SAMPLING)}
        return {name: value for name, value in (found | {"do_sample": self.sample}).items() if value is not None}


@command()
def chat(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Chat model: name or directory.")],
    options: ChatOptions,
) -> None:
    """Chat with a model in the terminal; from a pipe, each line is answered."""
    arguments = options.arguments(context)
    check_place(options.device, options.quantize)
    from flagai.loading import load_first

    place: dict[str, Any] = {"download_path": options.model_dir, "device": options.device, "quantize": options.quantize}
    place["adapter"] = options.adapter
    predictor = load_first("lm", (model,), **place).predictor
    name = predictor.chat_format.name  # a model that does not chat says so before anything is typed
    interactive = sys.stdin.isatty()
    if interactive:
        typer.echo(f"{printable(model)} ({name}). {_HELP}", err=True)
    texts = read_messages(_terminal() if interactive else _piped)
    TerminalChat(predictor, arguments, options.system).run(texts, interactive)


class TerminalChat:
    """Messages so far, and what answers them.

    Args:
        predictor: the model.
        arguments: the options of ``Predictor.chat``.
        system: what the model is told first.
    """

    def __init__(self, predictor: "Predictor", arguments: dict[str, Any], system: str | None = None) -> None:
        self._predictor = predictor
        self._arguments = arguments
        self._system = system
        self.messages: list[Message] = []
        self.clear()

    def clear(self) -> None:
        """Forget all messages but the first instructions."""
        from flagai.chat.messages import Message

        self.messages = [] if self._system is None else [Message("system", self._system)]

    def run(self, texts: Iterator[str], interactive: bool) -> None:
        """Answer texts until there are none, or ``/exit``; ``/clear`` and ``/help`` are commands.

        Args:
            texts: what the user writes.
            interactive: whether an error is told, instead of ending the program.

        Raises:
            InputError: a text cannot be answered, and the input is not a terminal.
        """
        for text in texts:
            word = text.strip()
            if word in ("/exit", "/quit"):
                return
            if word == "/clear":
                self.clear()
            elif word == "/help":
                typer.echo(_HELP, err=True)
            elif word:
                try:
                    self.answer(text)
                except InputError as error:
                    if not interactive:
                        raise
                    typer.secho(f"{error} /clear forgets the conversation.", err=True, fg=_colour("red"))
                except KeyboardInterrupt:  # a second one, while the first stops the answer
                    typer.echo()

    def answer(self, text: str) -> None:
        """Write the answer to a text while it comes; Ctrl-C stops it, and what has been written counts."""
        from flagai.chat.messages import Message

        asked = [*self.messages, Message("user", text)]
        written = ""
        try:
            with contextlib.closing(self._predictor.chat_stream(asked, **self._arguments)) as stream:
                for piece in stream:
                    written += piece
                    typer.echo(printable(piece), nl=False)
                message = stream.result.message
        except KeyboardInterrupt:
            message = Message("assistant", written)
            typer.echo(" [stopped]", nl=False, err=True)
        typer.echo()
        for call in message.tool_calls:
            typer.secho(printable(f"[{call.name}] {call.json.strip()}"), fg=_colour("yellow"))
        self.messages = [*asked, message]


def _colour(name: str) -> str | None:
    return None if settings.no_color() else name


def read_messages(read: Callable[[str], str]) -> Iterator[str]:
    r"""Texts of one line, of lines that end with ``\``, or of all lines between two of three quotation marks."""
    while True:
        try:
            yield _message(read)
        except EOFError:
            return
        except KeyboardInterrupt:  # at the prompt: what was typed is dropped
            typer.echo("\n/exit or Ctrl-D ends.", err=True)


def _message(read: Callable[[str], str]) -> str:
    line = read(_PROMPT)
    if line.lstrip().startswith(_BLOCK):
        lines = [line.lstrip().removeprefix(_BLOCK)]
        while not lines[-1].rstrip().endswith(_BLOCK):
            lines.append(read(_MORE))
        return "\n".join(lines).rstrip().removesuffix(_BLOCK).strip("\n")
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(read(_MORE))
    return "\n".join(lines)


def _terminal() -> Callable[[str], str]:
    """Reads lines that can be edited; the arrow keys bring earlier ones back."""
    with contextlib.suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401  # input() uses it
    return input


def _piped(_prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")
