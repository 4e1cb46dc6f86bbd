"""Decoding by replay: which searches are captured as CUDA graphs, and their two calls of a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from flagai.generation.decoding_state import DecodingState
from flagai.generation.replay import cuda_graph
from flagai.generation.replay.search_step import RecordedSearchStep
from flagai.generation.replay.step_pool import step_pool
from flagai.generation.search import Search, search_step
from flagai.generation.types import StepOutput
from flagai.model.layer.kernel_choice import is_hooked

# Steps below which capturing is not worth its time: the first is run as it is, the second is captured.
_FEWEST_STEPS = 4

Step = Callable[[Search, StepOutput], None]


@contextmanager
def recorded_steps(search: Search) -> Iterator[Step]:
    """In the body, a state's forward passes are replayed; the result replays :func:`search_step`.

    Args:
        search: one that :func:`is_replayed` accepts.
    """
    pool, state = step_pool(search.state.model), search.state
    recorded: list[RecordedSearchStep] = []

    def step(_: Search, output: StepOutput) -> None:
        if not recorded:
            recorded.append(RecordedSearchStep(search, output, pool))
        recorded[0]()

    with pool.lend(state) as forward:
        state.use_recorded(forward)
        yield step if search.recordable else search_step


def is_replayed(search: Search) -> bool:
    """Whether the steps of a search are replayed; asked after the first choice, when it has all beams."""
    state = search.state
    return (
        is_recordable(state)
        # With few tokens in the vocabulary, there are fewer beams at first than later.
        and state.beams.position.shape[1] == state.lanes
        and state.lanes * (2 + len(state.decoding.stop_token_ids)) <= state.model.config.vocab_size
    )


def is_recordable(state: DecodingState) -> bool:
    """Whether the steps of a state can be captured, and are worth it.

    Ranks that share a model must all replay or all not, or they would wait for each other: they vote.
    """
    sharding = state.model.sharding
    wish = (
        state.decoding.cuda_graphs
        and cuda_graph.can_record(state.device)
        and state.limit >= _FEWEST_STEPS
        # FSDP gathers parameters into new memory at every step.
        and (sharding is None or sharding.fsdp is None)
        # A replay runs no hooks, and goes on doing what a hook did that has been removed since.
        and not any(map(is_hooked, state.model.modules()))
        and not torch.is_autocast_enabled(state.device.type)
    )
    return wish if sharding is None else sharding.all_agree(wish)
