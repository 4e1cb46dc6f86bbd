"""Which texts are done, and their answers: on a GPU read one step later, so that neither it nor the host waits."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch

from flagai.generation.batch import SearchBatch
from flagai.generation.request import Request, Running
from flagai.generation.row_buffer import to_host
from flagai.generation.search import Search


@dataclass
class _HostCopy:
    """What is on its way to the host.

    Args:
        device: where it comes from.
        texts: the texts that it is about.
        done: whether each is done, [n], to be read when the copy has arrived; or whether all are.
        search: the rows of these texts; None where only ``done`` was asked for.
    """

    device: torch.device
    texts: list[Running]
    done: torch.Tensor | bool
    search: Search | None = None
    event: torch.cuda.Event | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            self.event = torch.cuda.Event()
            self.event.record(torch.cuda.current_stream(self.device))

    def wait(self) -> None:
        if self.event is not None:
            self.event.synchronize()


class Answers:
    """Asks which texts are done, and reads their answers.

    Args:
        device: where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lag = int(device.type == "cuda")
        self._asked: deque[_HostCopy] = deque()
        self._reading: deque[_HostCopy] = deque()

    @property
    def pending(self) -> bool:
        """Whether something is on its way."""
        return bool(self._asked or self._reading)

    def ask(self, batches: Sequence[SearchBatch]) -> None:
        """Ask which texts are done after the step that has just been started."""
        texts = [text for batch in batches for text in batch.texts]
        rows = [
            batch.search.done.index_select(0, _index(batch.search))
            if len(batch.texts) < batch.search.sizes.rows
            else batch.search.done
            for batch in batches
        ]
        self._asked.append(_HostCopy(self._device, texts, to_host(torch.cat(rows))))

    def done(self, flush: bool) -> list[Running]:
        """The texts that were done when it was last asked.

        Args:
            flush: no step follows: wait for the last answer, too.
        """
        found: list[Running] = []
        while len(self._asked) > (0 if flush else self._lag):
            copy = self._asked.popleft()
            copy.wait()
            flags = cast(torch.Tensor, copy.done).tolist()
            found += [text for text, done in zip(copy.texts, flags, strict=True) if done]
        return found

    def read(self, search: Search, texts: Sequence[Running], *, done: bool) -> None:
        """Read answers.

        Args:
            search: the search.
            texts: some of its texts, which leave if they are done.
            done: whether all of them are done; else what they have written so far is read.
        """
        host = search.of_rows([text.row for text in texts], search.reported if done else search.streamed)
        self._reading.append(_HostCopy(self._device, list(texts), done, host))

    def arrived(self, flush: bool) -> list[Request]:
        """Give requests what has been read for them.

        Args:
            flush: see :meth:`done`.
        """
        found: list[Request] = []
        while len(self._reading) > (0 if flush else self._lag):
            copy = self._reading.popleft()
            copy.wait()
            search, requests = cast(Search, copy.search), [text.request for text in copy.texts]
            found += requests
            if copy.done:
                for row, request in enumerate(requests):
                    request.hypotheses = tuple(search.hypotheses(row))
                    request.certain = request.hypotheses[0].pieces
            else:
                known = search.certain([request.certain for request in requests])
                for request, spans in zip(requests, known, strict=True):
                    request.certain = spans
        return found


def _index(search: Search) -> torch.Tensor:
    rows = [row for row, text in enumerate(search.texts) if text is not None]
    return search.index(rows)
