"""The nearest vectors: exactly, in blocks, or by an approximate index."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from flagai.checks import check_extra, check_integer
from flagai.errors import InputError
from flagai.model.predictor.results import DataTuple

INDEXES = ("exact", "usearch")


@dataclass(frozen=True, eq=False, repr=False)
class Hit(DataTuple, tuple[int, float]):
    """A text that was found; as a tuple ``(place, score)``."""

    place: int  # in the corpus
    score: float  # its similarity to the query
    text: str = ""  # the text, if the corpus has texts


def nearest(queries: torch.Tensor, blocks: Iterable[torch.Tensor], top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors with the greatest products, of a corpus of which one block is in memory at a time.

    Args:
        queries: [Q, width]
        blocks: the corpus, parts of [n, width].
        top_k: how many for each query.

    Returns:
        Their scores and indices, the best first and of equal ones the first, [Q, at most top_k] each.

    Raises:
        InputError: the sizes of the vectors differ.
    """
    top_k = check_integer("top_k", top_k)
    scores = queries.new_empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.long)
    begin = 0
    for block in blocks:
        if block.dim() != 2 or block.shape[1] != queries.shape[1]:
            raise InputError(
                f"The corpus has vectors of shape {list(block.shape)}, the queries of size {queries.shape[1]}."
            )
        found = torch.cat([scores, queries @ block.to(queries.dtype).T], dim=1)
        places = torch.cat([indices, torch.arange(begin, begin + len(block)).expand(len(queries), -1)], dim=1)
        order = found.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        scores, indices = found.gather(1, order), places.gather(1, order)
        begin += len(block)
    return scores, indices


def nearest_by_index(
    queries: torch.Tensor, blocks: Iterable[torch.Tensor], top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by a graph of neighbours (USearch), which may miss some.

    Source:
        Malkov and Yashunin 2018, "Efficient and Robust Approximate Nearest Neighbor Search Using HNSW Graphs".
    """
    check_extra("search", "usearch")
    import numpy as np
    from usearch.index import Index

    index: Any = Index(ndim=queries.shape[1], metric="ip", dtype="f32")
    begin = 0
    for block in blocks:
        index.add(np.arange(begin, begin + len(block)), block.float().numpy())
        begin += len(block)
    count = min(check_integer("top_k", top_k), begin)
    if not count:
        return queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
    found = index.search(queries.float().numpy(), count)
    keys = torch.from_numpy(np.asarray(found.keys).astype(np.int64)).view(len(queries), -1)
    return 1 - torch.from_numpy(np.asarray(found.distances)).view(len(queries), -1), keys
