"""Copying through a pool of readers, as loads to other devices do."""

from collections.abc import Iterable

import torch

from flagai.checkpoint.stream.plan import Copy
from flagai.checkpoint.stream.readers import ReaderOptions, ReaderPool


def stream(copies: Iterable[Copy], device: torch.device, options: ReaderOptions | None = None) -> None:
    """Copy views of files into tensors of a device, and cast them there."""
    copies = list(copies)
    with ReaderPool(device, sum(copy.source.nbytes for copy in copies), options) as readers:
        readers.add(copies)
