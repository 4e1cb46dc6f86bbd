"""Messages between fronts, which speak HTTP in processes of their own, and the process of the models."""

import asyncio
import itertools
import logging
import pickle
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.responses import Response

from flagai.errors import FlagAIError, quoted
from flagai.serve.calls import EventStream
from flagai.serve.desk import ModelDesk
from flagai.serve.refusals import RequestError

logger = logging.getLogger(__name__)
_SIZE = 8  # bytes in front of a message that tell its length


class ProcessLink:
    """Messages between a process and the one that started it, over a pair of sockets that nothing else can reach."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "ProcessLink":
        """A link over one end of a pair of sockets."""
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, *message: Any) -> None:
        """Send a message; nothing happens if the other process is gone."""
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._writer.write(len(content).to_bytes(_SIZE, "little") + content)

    async def receive(self) -> Any:
        """The next message; None after the last one."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_SIZE), "little")
            return pickle.loads(await self._reader.readexactly(size))  # noqa: S301 - of our own process
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


class RemoteDesk:
    """Answers with the models of the process that started this one; see :class:`flagai.serve.desk.Desk`.

    Args:
        link: to that process.
    """

    def __init__(self, link: ProcessLink) -> None:
        self._link = link
        self._talks: dict[int, _Talk] = {}

    async def hear(self) -> None:
        """Take what the other process sends, until it ends."""
        while (message := await self._link.receive()) is not None:
            number, *news = message
            if number in self._talks:
                self._talks[number].news.put_nowait(tuple(news))
        for talk in self._talks.values():
            talk.news.put_nowait(("error", RequestError(503, "The server has ended.", retry_after=30)))

    async def call(self, path: str, content: bytes, named: str | None, notes: dict[str, Any]) -> Any:
        """See :class:`flagai.serve.desk.Desk`."""
        talk = self._ask(notes, "call", path, content, named)
        with talk:
            first = await talk.next()
            if talk.last != "event":
                return first
            talk.stays = True
            return EventStream(talk.events(first))

    async def page(self, path: str) -> Response:
        """See :class:`flagai.serve.desk.Desk`."""
        with self._ask({}, "page", path) as talk:
            found: Response = await talk.next()
        return found

    def note(self, path: str, status: int, seconds: float, first: float | None, notes: Mapping[str, Any]) -> None:
        """See :class:`flagai.serve.desk.Desk`."""
        counted = {name: notes[name] for name in ("model", "prompt_tokens", "completion_tokens") if name in notes}
        self._link.send("note", -1, path, status, seconds, first, counted)

    def _ask(self, notes: dict[str, Any], kind: str, *asked: Any) -> "_Talk":
        talk = _Talk(self._link, self._talks, notes)
        self._link.send(kind, talk.number, *asked)
        return talk


class _Talk:
    """A request to the other process, and what comes back; at its end, work that is not done is canceled."""

    _numbers = itertools.count()

    def __init__(self, link: ProcessLink, talks: "dict[int, _Talk]", notes: dict[str, Any]) -> None:
        self.number = next(self._numbers)
        self.news: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.last = ""  # what came last: "answer", "event", "end" or "error"
        self.stays = False  # at the end of the with statement, because a stream goes on
        self._link = link
        self._talks = talks
        self._notes = notes
        talks[self.number] = self

    async def next(self) -> Any:
        """The next answer or event.

        Raises:
            RequestError: there is none.
        """
        self.last, value, *noted = await self.news.get()
        self._notes |= noted[0] if noted else {}
        if self.last == "error":
            raise value
        return value

    async def events(self, event: Any) -> AsyncIterator[Any]:
        """This event, and those that follow it."""
        self.stays = False
        with self:
            while self.last != "end":
                yield event
                event = await self.next()

    def __enter__(self) -> "_Talk":
        return self

    def __exit__(self, *_: object) -> None:
        if self.stays:
            return
        del self._talks[self.number]
        if self.last not in ("answer", "end", "error"):
            self._link.send("cancel", self.number)


class Attendant:
    """Answers what the front at the other end of a link asks.

    Args:
        desk: the models.
        link: to the front.
        seconds: that a call may take.
    """

    def __init__(self, desk: ModelDesk, link: ProcessLink, seconds: float) -> None:
        self._desk = desk
        self._link = link
        self._seconds = seconds
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def attend(self) -> None:
        """Answer until the front ends."""
        while (message := await self._link.receive()) is not None:
            kind, number, *rest = message
            if kind == "note":
                self._desk.note(*rest)
            elif kind == "cancel":
                if number in self._tasks:
                    self._tasks[number].cancel()
            else:
                task = asyncio.ensure_future((self._call if kind == "call" else self._page)(number, *rest))
                self._tasks[number] = task
                task.add_done_callback(partial(self._forget, number))
        for task in self._tasks.values():
            task.cancel()

    def _forget(self, number: int, _: object) -> None:
        del self._tasks[number]

    async def _page(self, number: int, path: str) -> None:
        self._link.send(number, "answer", await self._desk.page(path))

    async def _call(self, number: int, path: str, content: bytes, named: str | None) -> None:
        notes: dict[str, Any] = {}
        try:
            async with asyncio.timeout(2 * self._seconds):  # the front has canceled it by then, unless it is gone
                answer = await self._desk.call(path, content, named, notes)
                if not isinstance(answer, EventStream):
                    self._link.send(number, "answer", answer, notes)
                    return
                async with aclosing(answer.events) as events:  # type: ignore[type-var]
                    async for event in events:
                        self._link.send(number, "event", event)
                self._link.send(number, "end", None, notes)
        except RequestError as error:
            self._link.send(number, "error", error, notes)
        except Exception as error:
            logger.exception("A call of %s has failed", path)
            kind = quoted(error) if isinstance(error, FlagAIError) else type(error).__name__
            self._link.send(number, "error", RequestError(500, f"The server has failed: {kind}. See its log."), notes)
