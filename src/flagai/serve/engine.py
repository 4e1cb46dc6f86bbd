"""The engine of a model: one thread, which owns its scheduler and makes all calls of the model."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from flagai.errors import FlagAIError, InputError, quoted
from flagai.generation import Scheduler
from flagai.serve.bounds import Bounds
from flagai.serve.lockstep import Lockstep
from flagai.serve.packs import PackQueue
from flagai.serve.refusals import RequestError
from flagai.serve.work import EngineModel, EngineWatch, Order, Ticket, WorkSpec

logger = logging.getLogger(__name__)


class Engine:
    """Answers the work of many clients with one model.

    Args:
        served: the model.
        bounds: the limits.
        memory: bytes of keys and values at most.
        watch: what hears of iterations.
        lockstep: the ranks that share the model.
    """

    def __init__(
        self, served: EngineModel, bounds: Bounds, memory: int | None, watch: EngineWatch, lockstep: Lockstep
    ) -> None:
        self._served = served
        self._memory = memory
        self._watch = watch
        self._lockstep = lockstep
        self._bounds = bounds
        self._inbox: queue.SimpleQueue[tuple[str, Ticket | None]] = queue.SimpleQueue()
        self._packs = PackQueue(bounds.pack_tokens, bounds.pack_seconds)
        self._tickets: dict[int, Ticket] = {}
        self._running: dict[int, list[Any]] = {}
        self._owners: dict[Any, int] = {}  # the numbers of requests that run
        self._news: dict[Ticket, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="flagai-engine", daemon=True)
        self._started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.scheduler: Scheduler | None = None
        self.failure: BaseException | None = None  # what ended it
        self.pending = 0  # texts of the front that wait or run; changed in the front's thread

    # -- the front's side ----------------------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread, and wait until it is ready.

        Raises:
            Exception: what it could not begin for.
        """
        self._loop = loop
        self._thread.start()
        if (error := self._started.get()) is not None:
            raise error

    async def do(self, ticket: Ticket) -> None:
        """Take work, and wait until it is done; canceled when the caller is.

        Raises:
            Exception: what went wrong, or that too much waits already.
        """
        with self.submitted(ticket):
            await ticket.finish()

    @contextmanager
    def submitted(self, ticket: Ticket) -> Iterator[None]:
        """Take work for the body of a with statement; what is not done at its end is canceled.

        Raises:
            RequestError: too much waits already.
        """
        if self.failure is not None:
            raise self._gone()
        count = ticket.missing
        if self.pending and self.pending + count > self._bounds.queue:
            raise RequestError(429, f"{self.pending} texts are waiting already. Come again later.", retry_after=1)
        self.pending += count
        self.put("submit", ticket)
        try:
            yield
        finally:
            self.pending -= count
            if not ticket.done:
                self.put("cancel", ticket)

    def put(self, what: str, ticket: Ticket | None = None) -> None:
        """Tell the thread to "submit", to "cancel" or to "stop"."""
        self._inbox.put((what, ticket))

    def stop(self) -> None:
        """Let the thread finish what it has, and end."""
        if self._thread.is_alive():
            self.put("stop")
            self._thread.join()

    def follow(self) -> None:
        """Do what the first rank does, until it stops: the part of the other ranks that share the model."""
        with ExitStack() as stack:
            self._enter(stack)
            while self.obey(self._lockstep.receive()):
                pass

    # -- the thread's side ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                self._enter(stack)
                self._started.put(None)
                while self._iterate():
                    pass
        except BaseException as error:
            self.failure = error
            if self._started.empty():
                self._started.put(error)
            logger.exception("The engine has failed")
            self._fail(list(self._tickets.values()), self._gone())
            self._tell()

    def _gone(self) -> RequestError:
        return RequestError(503, f"The model has failed: {quoted(self.failure)}.", retry_after=30)

    def _enter(self, stack: ExitStack) -> None:
        if self._served.generates:
            self.scheduler = stack.enter_context(Scheduler(self._served.model, memory=self._memory))

    def _iterate(self) -> bool:
        """Do what has come, one step of the scheduler, and one call of an encoder; False after the last one."""
        orders = self._orders()
        self._lockstep.share(orders)
        goes_on = self.obey(orders)
        self._tell()
        return goes_on

    def _orders(self) -> list[Order]:
        busy = self.scheduler is not None and self.scheduler.has_work
        wait = 0.0 if busy else self._packs.seconds_left(time.monotonic())
        orders: list[Order] = []
        for what, ticket in self._received(self._lockstep.patience if wait is None else wait):
            if ticket is None:
                orders.append((what,))
            elif what == "cancel":
                ticket.canceled = True
                if self._tickets.pop(ticket.number, None) is not None and ticket.spec.generates:
                    orders.append(("cancel", ticket.number))
            else:
                self._tickets[ticket.number] = ticket
                if ticket.spec.generates:
                    orders.append(("write", ticket.number, ticket.spec))
                else:
                    self._packs.add(ticket, time.monotonic())
        pack = self._packs.take(time.monotonic())
        if pack:
            orders.append(("call", pack[0][0].spec.task, pack[0][0].spec.options, tuple(map(_entry, pack)), pack))
        return orders

    def _received(self, wait: float | None) -> Iterable[tuple[str, Ticket | None]]:
        """What has come; if nothing has, wait so many seconds for it."""
        try:
            if wait != 0:
                yield self._inbox.get(timeout=wait)
            while True:
                yield self._inbox.get_nowait()
        except queue.Empty:
            return

    def obey(self, orders: Sequence[Order]) -> bool:
        """Do what all ranks do, and one step; False after the order to stop."""
        goes_on = True
        for order in orders:
            if order[0] == "write":
                self._write(order[1], order[2])
            elif order[0] == "cancel" and self.scheduler is not None:
                self.scheduler.cancel(*self._forget(order[1]))
            elif order[0] == "call":
                self._call(order[1], order[2], order[3], order[4] if len(order) > 4 else [])
            elif order[0] == "stop":
                goes_on = False
        if self.scheduler is not None and self.scheduler.has_work:
            self._step(self.scheduler)
        return goes_on

    def _write(self, number: int, spec: WorkSpec) -> None:
        ticket = self._tickets.get(number)
        try:
            asked = self._served.build(spec) if ticket is None else ticket.asked
            if self.scheduler is not None:
                self.scheduler.submit(*(each.request for each in asked))
            self._running[number] = asked
            self._owners |= {each.request: number for each in asked}
        except InputError as error:
            self._fail([] if ticket is None else [ticket], error)

    def _step(self, scheduler: Scheduler) -> None:
        begin = time.monotonic()
        try:
            found = set(scheduler.step())
        except Exception as error:  # noqa: BLE001 - clients get it, and ranks end
            # A request that no memory holds is gone; after other errors all begin anew, and would fail again.
            waiting = set(scheduler.waiting)
            lost = [
                number
                for number, asked in self._running.items()
                if any(not each.request.done and each.request not in waiting for each in asked)
            ]
            if not lost or not isinstance(error, InputError):
                self._log_or_end(error)
                lost = list(self._running)
            for number in lost:
                scheduler.cancel(*self._forget(number))
            self._fail([self._tickets[number] for number in lost if number in self._tickets], error)
            return
        self._watch.step(len(scheduler.running), time.monotonic() - begin)
        for request in found:
            number = self._owners.pop(request) if request.done else self._owners[request]
            ticket = self._tickets.get(number)
            if request.done and all(each.request.done for each in self._running.get(number, ())):
                self._running.pop(number, None)
            if ticket is not None:
                ticket.missing -= request.done
                self._news[ticket] = None
                if ticket.done:
                    self._tickets.pop(number, None)

    def _forget(self, number: int) -> list[Any]:
        """Requests of a ticket that the scheduler need not answer any more."""
        found = [each.request for each in self._running.pop(number, ())]
        for request in found:
            self._owners.pop(request, None)
        return found

    def _call(
        self, task: str, options: Mapping[str, Any], entries: Sequence[Any], pack: Sequence[tuple[Ticket, int]]
    ) -> None:
        begin = time.monotonic()
        try:
            results = self._served.call(task, options, entries)
        except Exception as error:  # noqa: BLE001 - as above
            if not isinstance(error, FlagAIError):
                self._log_or_end(error)
            if len(entries) == 1 or not isinstance(error, FlagAIError):
                self._fail([ticket for ticket, _ in pack], error)
            else:  # an entry is refused, but no other client's
                for index, entry in enumerate(entries):
                    self._call(task, options, (entry,), pack[index : index + 1])
            return
        tokens, seconds = sum(ticket.tokens[index] for ticket, index in pack), time.monotonic() - begin
        self._packs.took(seconds)
        self._watch.pack(len(entries), tokens, seconds)
        for (ticket, index), result in zip(pack, results, strict=False):
            ticket.results[index] = result
            ticket.missing -= 1
            if ticket.done:
                self._news[ticket] = None
                self._tickets.pop(ticket.number, None)

    def _log_or_end(self, error: Exception) -> None:
        """Log an error; ranks that share a model end, because the others may not have it.

        Raises:
            Exception: this one, where ranks share the model.
        """
        if self._lockstep.patience is not None:
            raise error
        logger.error("A call of the model has failed", exc_info=error)

    def _fail(self, tickets: Iterable[Ticket], error: Exception) -> None:
        for ticket in tickets:
            ticket.error = error
            self._news[ticket] = None
            self._tickets.pop(ticket.number, None)

    def _tell(self) -> None:
        """Wake those of the front who wait for what is new, all by one call."""
        if self._news and self._loop is not None:
            tickets, self._news = list(self._news), {}
            self._loop.call_soon_threadsafe(_wake, tickets)


def _wake(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.wake()


def _entry(item: tuple[Ticket, int]) -> Any:
    ticket, index = item
    return ticket.spec.entries[index]
