"""The scheduler: requests come and go at every step of one batch.

An iteration admits requests for which there are blocks, reads their prompts, runs one step of all that are running, and
lets those go that are finished (iteration-level scheduling). When blocks run out, the youngest request is put back and
begins anew later; its answer is the same.

Source: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models".
"""

from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import nn

from flagai.checks import check_integer
from flagai.errors import InputError
from flagai.generation.allocation import allocate, expected_blocks, extend, first_blocks, too_large
from flagai.generation.answers import Answers
from flagai.generation.batch import SearchBatch, batch_key, grouped, sizes_of
from flagai.generation.checks import any_seed, check_request, check_types
from flagai.generation.evaluating import evaluating
from flagai.generation.forward import reads_at_once, tokens_to_read
from flagai.generation.prompt_reader import PromptReader
from flagai.generation.protocol import GenerativeModel, decoding_of, prompt_for
from flagai.generation.replay.steps import Steps, steps_of
from flagai.generation.request import Request, Running
from flagai.parallel.dtensor import shards_vocabulary

# Answers and candidates that are written side by side, unless one request has more; tokens of prompts of an iteration.
_MOST_LANES, _PROMPT_TOKENS = {"cpu": 128, "cuda": 512}, {"cpu": 2048, "cuda": 16384}
# Steps after which texts may come and go even if they are less than one in _FEW of those that run: on a GPU, such a
# change costs the host as much as a step.
_CHANGE_EVERY, _FEW = {"cpu": 1, "cuda": 4}, 8
# Streamed texts whose new tokens are read after a step: with more, each is read every second, third, ... step.
_MOST_READ = 256


class Scheduler:
    """Answers requests with a model, as many at a time as there is memory for.

    Args:
        model: the model; in the body of a ``with`` statement it is in evaluation mode.
        memory: the most bytes of keys and values; default a share of what is free.
        graphs: on a GPU, whether steps are captured as CUDA graphs.
        prompt_tokens: tokens of prompts that an iteration reads; a longer prompt is read in parts.
        reserve_whole: whether a request gets the blocks of all its steps at once; default on a CPU.
        change_every: steps after which even few texts come and go; default 1, and 4 on a GPU.

    Example:
        >>> with Scheduler(model) as scheduler:
        ...     scheduler.submit(request)
        ...     while scheduler.has_work:
        ...         scheduler.step()
    """

    def __init__(
        self,
        model: GenerativeModel,
        *,
        memory: int | None = None,
        graphs: bool = True,
        prompt_tokens: int | None = None,
        reserve_whole: bool | None = None,
        change_every: int | None = None,
    ) -> None:
        self.model: Any = model
        self.device = next(model.parameters()).device
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, Running] = {}  # in the order of their admission
        self._batches: dict[Hashable, SearchBatch] = {}
        self._answers = Answers(self.device)
        self._unanswered: dict[Request, None] = {}  # in the order of their submission
        self._entered = False
        self._memory = None if memory is None else check_integer("memory", memory)
        self._graphs = graphs
        self._stack = ExitStack()
        group = None if model.sharding is None else model.sharding.tp_group
        self._sharded = group is not None and shards_vocabulary(cast(nn.Module, model))
        kind = "cpu" if self.device.type == "cpu" else "cuda"
        self._most_lanes, most = _MOST_LANES[kind], _PROMPT_TOKENS[kind]
        self._prompt_tokens = most if prompt_tokens is None else check_integer("prompt_tokens", prompt_tokens)
        self._reader = PromptReader(model, self._prompt_tokens)
        self._every = _CHANGE_EVERY[kind] if change_every is None else check_integer("change_every", change_every)
        self._unchanged = 0  # steps since texts came or went
        self._over: dict[Running, None] = {}  # texts that are done
        self._reserve_whole = self.device.type == "cpu" if reserve_whole is None else reserve_whole

    def __enter__(self) -> Self:
        self._stack.enter_context(evaluating(self.model))
        with torch.inference_mode():
            self._steps: Steps = self._stack.enter_context(steps_of(self.model, self._memory, graphs=self._graphs))
        self.memory = self._steps.memory
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.cancel(*self.running)
        self._unanswered.clear()
        self._begin_anew()
        self._entered = False
        self._stack.__exit__(kind, error, trace)

    def _begin_anew(self) -> None:
        """Put all requests back that have no answers: after an error it is unknown how far a step has come."""
        self.memory.free_all()
        self._reader.unfinished, self._answers = None, Answers(self.device)
        self._over.clear()
        self.running.clear()
        self._batches.clear()
        self.waiting = deque(request for request in self._unanswered if not request.done)

    @property
    def has_work(self) -> bool:
        """Whether a request waits, runs, or has yet to get its answers."""
        return bool(self.waiting or self.running or self._reader.unfinished or self._answers.pending)

    def submit(self, *requests: Request) -> None:
        """Add requests at the end of the queue.

        Raises:
            InputError: the options or the prompt of one do not fit the model, there is no memory for it, or it has
                been submitted before; none has been added then.
        """
        self._check_entered()
        check_types(requests)
        for request in requests:
            check_request(self.model, decoding_of(self.model, request.prompt), request)
            if first_blocks(request, whole=self._reserve_whole) >= self.memory.most_blocks:
                raise too_large(request, self.memory)
        if len(set(requests)) < len(requests) or any(each.done or each in self._unanswered for each in requests):
            raise InputError("A request is submitted twice, but holds the answers of one prompt. Make another one.")
        for request in requests:
            seed = request.decoding.seed
            request.seed = any_seed(self.model) if seed is None else seed
            request.prompt = prompt_for(self.model, request.prompt)
            self.waiting.append(request)
            self._unanswered[request] = None

    @torch.inference_mode()
    def cancel(self, *requests: Request) -> None:
        """Drop requests, and give their blocks back; one that is done, or was not submitted, is left alone."""
        for request in requests:
            if self._unanswered.pop(request, request) is None:
                self._withdraw(request)
                with suppress(ValueError):
                    self.waiting.remove(request)

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Run one iteration.

        Returns:
            The requests that are done, and those with ``stream`` that have new tokens.

        Raises:
            InputError: the memory does not hold a single request, which is dropped.
        """
        self._check_entered()
        try:
            reported = dict.fromkeys(self._iterate())  # one may have new tokens and be done
            found = [request for request in reported if request in self._unanswered]  # others are canceled
        except BaseException:
            self._begin_anew()
            raise
        for request in filter(lambda each: each.done, found):
            del self._unanswered[request]
        return found

    def _check_entered(self) -> None:
        if not self._entered:
            raise InputError("A scheduler works in the body of a with statement: with Scheduler(model) as scheduler.")

    def _iterate(self) -> list[Request]:
        if self._reader.unfinished or self._may_change(len(self.waiting)):
            self._admit()
        self._reserve()
        batches = [batch for batch in self._batches.values() if any(text.goes_on for text in batch.texts)]
        if batches:
            self._steps.run(self.model, batches)
            self._unchanged += 1
            for batch in batches:
                for text in batch.texts:
                    text.steps += 1
            self._answers.ask(batches)
        self._read_answers(flush=not batches)
        return self._answers.arrived(flush=not batches)

    def _may_change(self, count: int) -> bool:
        """Whether so many texts may come, or go, now."""
        return count > 0 and (self._unchanged >= self._every or count * _FEW >= len(self.running))

    def _read_answers(self, *, flush: bool) -> None:
        """Let those go that are done, and read the new tokens of those that are streamed."""
        self._over |= dict.fromkeys(self._answers.done(flush))
        self._over = {text: None for text in self._over if self.running.get(text.request) is text}
        go = flush or self._may_change(len(self._over))
        for batch in list(self._batches.values()):
            gone = {text: None for text in batch.texts if text in self._over} if go and self._over else {}
            turns = -(-len(batch.texts) // _MOST_READ)
            turn = (text for text in batch.texts if text.steps % turns == text.row % turns)
            told = [text for text in turn if text.request.stream and text not in gone]
            if told:
                self._answers.read(batch.search, told, done=False)
            if gone:
                self._answers.read(batch.search, [*gone], done=True)
                self._let_go(batch, [*gone])
        if go:
            self._over.clear()

    def _let_go(self, batch: SearchBatch, texts: Sequence[Running]) -> None:
        for text in texts:
            self.memory.blocks.give_back(self.running.pop(text.request).blocks)
        self._unchanged = 0
        batch.leave(texts)
        if not batch.texts:
            del self._batches[batch_key(texts[0].request)]

    # -- admission -----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Read the prompts of as many waiting requests as there is room for, and let these run."""
        ready: list[Running] = []
        whole: list[Running] = []
        lanes, tokens = sum(request.lanes for request in self.running), self._prompt_tokens
        if (begun := self._reader.unfinished) is not None:
            tokens += begun.num_read
            ready += [begun] * self._reader.read_part(begun, self._steps)
            tokens -= begun.num_read
        if self.waiting and not self.running:
            self.memory.expect(expected_blocks(self.waiting, self._most_lanes))
        while self.waiting and self._reader.unfinished is None:
            request = self.waiting[0]
            protocol, length = decoding_of(self.model, request.prompt), tokens_to_read(self.model, request)
            if lanes and (lanes + request.lanes > self._most_lanes or min(length, self._prompt_tokens) > tokens):
                break
            admitted = allocate(request, self.memory, protocol, self.model.config, whole=self._reserve_whole)
            if admitted is None:
                break
            self.waiting.popleft()
            lanes, tokens = lanes + request.lanes, tokens - length
            if length > self._prompt_tokens and not reads_at_once(protocol):
                ready += [admitted] * self._reader.read_part(admitted, self._steps)
            else:
                whole.append(admitted)
        self._reader.read(whole, self._steps)
        for key, group in grouped([*ready, *whole]).items():
            self._join(key, group)

    def _join(self, key: Hashable, group: list[Running]) -> None:
        requests = [text.request for text in group]
        if key not in self._batches:
            self._batches[key] = SearchBatch.of(self.model, requests[0], self._steps, sharded=self._sharded)
        self._batches[key].join(group, sizes_of(requests, encoder=decoding_of(self.model, requests[0].prompt).encoder))
        self.running |= dict(zip(requests, group, strict=True))
        self._unchanged = 0

    # -- blocks of running requests ------------------------------------------------------------------------------

    def _reserve(self) -> None:
        """Give blocks to those that have no slots for the next step; put the youngest back if there are none."""
        grown: dict[Running, int] = {}
        for running in [each for each in self.running.values() if each.steps >= each.enough]:
            request = running.request
            while running.needs_slots and running.goes_on and self.running.get(request) is running:
                begin = running.own_slots.shape[1]
                if extend(running, self.memory):
                    grown.setdefault(running, begin)
                elif not self._put_youngest_back():
                    del self._unanswered[request]
                    raise too_large(request, self.memory)
        groups = grouped([running for running in grown if self.running.get(running.request) is running])
        for key, group in groups.items():
            self._batches[key].search.add_slots([(running, grown[running]) for running in group])

    def _put_youngest_back(self) -> bool:
        """Take the blocks of the youngest request, which begins anew later; False if there is only one."""
        if self._reader.unfinished is None and len(self.running) == 1:
            return False
        youngest = (self._reader.unfinished or next(reversed(self.running.values()))).request
        self._withdraw(youngest)
        self.waiting.appendleft(youngest)
        return True

    def _withdraw(self, request: Request) -> None:
        """Take the blocks of a request that runs or whose prompt is read."""
        begun = self._reader.unfinished
        if begun is not None and begun.request is request:
            self.memory.blocks.give_back(begun.blocks)
            self._reader.unfinished = None
        elif request in self.running:
            self._let_go(self._batches[batch_key(request)], [self.running[request]])
