"""Greedy search on a GPU: a choice, and all that follows from it, in two kernels instead of fifty."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Self, cast

import torch

from flagai.generation.decoding_state import Scored, StaticStep, Tree
from flagai.generation.sampling import IndependentLanes
from flagai.generation.search import Search
from flagai.kernels.hardware import has_triton_half, next_power_of_2, pdl_options
from flagai.parallel.dtensor import is_sharded

# Texts that one program takes.
_MOST_ROWS = 32
# Tokens that a program compares, and how many such programs there may be for a text.
_CHUNK, _CHUNKS = 1024, 64
# Forbidden ids are looked for one after the other.
_MOST_BANNED = 16


@dataclass(frozen=True)
class GreedyChoice:
    """A greedy choice over tensors that stay where they are.

    It changes the search, the tree and what the model's step reads, as :meth:`Search.grow` and :meth:`Tree.feed` do.

    Args:
        logits: of the tokens that may follow, [B, V].
        banned: ids that are never chosen.
        tensors: of the search, the tree and the step, by the names that the kernel has for them.
        numbers: what is the same at every step, by those names.
        spans: whether blanks are filled.
    """

    logits: torch.Tensor
    banned: torch.Tensor
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, int]
    spans: bool

    @classmethod
    def of(cls, search: IndependentLanes, scored: Scored) -> Self:
        """The choices of a greedy search; its tensors are those that it has now."""
        tree, lanes, decoding = search.tree, search.tree.lanes, search.decoding
        step, logits = cast(StaticStep, tree.static), scored.logits[:, 0]
        batch, vocabulary = logits.shape
        chunks = -(-vocabulary // _chunk(vocabulary))
        tensors = {
            "parts": logits.new_empty(3, batch, chunks, dtype=torch.float32),
            "firsts": logits.new_empty(batch, chunks, dtype=torch.int32),
            "slot": tree.cache.now,
            "next_ids": step.inputs.ids,
            "next_position": step.inputs.position,
            "next_block": step.inputs.block,
            "next_seen": step.inputs.seen,
        }
        for owner, names in (
            (search, ("score", "kept", "length", "ended", "stopped", "done")),
            (lanes, ("piece", "position", "block", "blank", "fed", "seen")),
            (tree, ("clock", "last_blank", "blanks", "stop_token_ids")),
        ):
            tensors |= {name: getattr(owner, name) for name in names}
        numbers = {
            "B": batch,
            "CHUNKS": chunks,
            "STOPS": len(tree.stop_token_ids),
            "MOST": decoding.max_new_tokens,
            "STEPS": tree.steps,
            "CAPACITY": tree.cache.capacity,
            "BLANKS": tree.blanks.shape[1],
            "START": tree.start_id or 0,
            "CLOSING": decoding.stop_token_ids[0] if tree.family.spans else 0,
            "HIGHEST": (tree.rows or 2) - 1,
        }
        return cls(logits, search.pipeline.banned, tensors, numbers, tree.family.spans)

    @property
    def kernels(self) -> Hashable:
        """What the code of the kernels depends on."""
        return (self.logits.device, self.logits.dtype, *self.logits.shape, self.spans)

    def elsewhere(self) -> Self:
        """The same over copies of what it changes."""
        return replace(self, tensors={name: tensor.clone() for name, tensor in self.tensors.items()})

    def __call__(self) -> None:
        """Choose, and grow."""
        from flagai.kernels.triton.greedy import best_kernel, grow_kernel

        (batch, vocabulary), early = self.logits.shape, pdl_options(self.logits.device)
        chunks, parts, firsts = self.numbers["CHUNKS"], self.tensors["parts"], self.tensors["firsts"]
        best_kernel[(chunks, batch)](
            self.logits,
            self.banned,
            parts,
            firsts,
            vocabulary,
            len(self.banned),
            CHUNK=_chunk(vocabulary),
            EARLY=early["EARLY"],  # for the next one: this one waits for the model's step
        )
        bytes_for_bools = {
            name: tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor
            for name, tensor in self.tensors.items()
        }
        grow_kernel[(1,)](
            **bytes_for_bools,
            **self.numbers,
            BP=next_power_of_2(batch),
            CP=next_power_of_2(chunks),
            SPANS=self.spans,
            **early,
        )


def greedy_choice(search: Search, scored: Scored) -> GreedyChoice | None:
    """What makes the choices of a search by kernels; None if they cannot.

    Args:
        search: after its first choice, over a static step.
        scored: where the step's results are.
    """
    if type(search) is IndependentLanes and _suits(search, scored.logits):
        return GreedyChoice.of(search, scored)
    return None


def _suits(search: IndependentLanes, logits: torch.Tensor) -> bool:
    tree, pipeline = search.tree, search.pipeline
    return (
        type(tree) is Tree
        and tree.width == 1
        and len(tree.ids) <= _MOST_ROWS
        and not search.decoding.do_sample
        and search.recordable
        and pipeline.only_bans
        and len(pipeline.banned) <= _MOST_BANNED
        # Ranks that share a model would have to agree about what has been compiled.
        and tree.model.sharding is None
        and not is_sharded(logits)
        and logits.is_contiguous()
        and has_triton_half(logits.device, logits.dtype)
    )


def _chunk(vocabulary: int) -> int:
    return max(_CHUNK, next_power_of_2(-(-vocabulary // _CHUNKS)))
