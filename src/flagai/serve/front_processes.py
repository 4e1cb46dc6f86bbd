"""Fronts in processes of their own: started, told when to listen, and ended with the process of the models."""

import asyncio
import multiprocessing
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from flagai.errors import FlagAIError
from flagai.serve.desk import ModelDesk
from flagai.serve.link import Attendant, ProcessLink, RemoteDesk
from flagai.serve.listening import FrontSettings, HttpServer, on_signals
from flagai.serve.logs import log_as_json

_TICK = 0.1  # seconds between two looks at whether to stop


class FrontProcesses:
    """A process for each socket, which speaks HTTP for the models of this one.

    Args:
        desk: the models.
        settings: how clients are treated.
        tell: is called once all of them answer.
        stopping: is called when they are told to stop.
    """

    def __init__(
        self, desk: ModelDesk, settings: FrontSettings, tell: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        self._desk = desk
        self._settings = settings
        self._tell = tell
        self._stopping = stopping
        self.should_exit = False

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Answer what the processes ask, until a signal comes and they have ended.

        Raises:
            FlagAIError: one of them has ended by itself.
        """
        started = [self._start(listener) for listener in sockets]
        processes = [process for process, _ in started]
        with on_signals(self._stop):
            try:
                links = [await ProcessLink.over(end) for _, end in started]
                ready = [await link.receive() for link in links]
                if None not in ready:
                    self._tell()
                seconds = self._settings.bounds.seconds
                tasks = [asyncio.ensure_future(Attendant(self._desk, link, seconds).attend()) for link in links]
                while not self.should_exit and not any(task.done() for task in tasks):
                    await asyncio.wait(tasks, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
                failed = not self.should_exit
                for process in processes:
                    process.terminate()
                await asyncio.gather(*tasks)
            finally:
                for process in processes:
                    process.terminate()
                    await asyncio.to_thread(process.join)
        if failed:
            codes = ", ".join(str(process.exitcode) for process in processes)
            raise FlagAIError(f"A process that speaks HTTP has ended (exit codes: {codes}).")

    def _stop(self, _: int) -> None:
        self.should_exit = True
        self._stopping()

    def _start(self, listener: socket.socket) -> tuple[BaseProcess, socket.socket]:
        mine, its = socket.socketpair()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_run, args=(its, listener, self._settings), daemon=True)
        process.start()
        its.close()
        listener.close()
        return process, mine


def _run(end: socket.socket, listener: socket.socket, settings: FrontSettings) -> None:
    log_as_json()
    asyncio.run(_speak(end, listener, settings))


async def _speak(end: socket.socket, listener: socket.socket, settings: FrontSettings) -> None:
    link = await ProcessLink.over(end)
    desk = RemoteDesk(link)
    server = HttpServer(desk, settings, lambda: link.send("ready"), lambda: None)

    def gone(_: object) -> None:
        server.should_exit = True

    hearing = asyncio.ensure_future(desk.hear())
    hearing.add_done_callback(gone)
    await server.serve(sockets=[listener])
    hearing.cancel()
