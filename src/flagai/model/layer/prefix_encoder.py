"""Learned keys and values in front of every text: P-Tuning v2.

They stand where placeholders stand: a text gets P tokens in front whose keys and values are exchanged in every layer.
So the engine, which packs texts and keeps their keys in slots, needs to know nothing of it.

Source: Liu et al. 2022, "P-Tuning v2"; the encoders of ChatGLM-6B and ChatGLM2-6B.
"""

from collections.abc import Sequence

import torch
from torch import nn

from flagai.model.layer.cache import KVCache, LayerCache
from flagai.model.layer.linear import Linear
from flagai.parallel.dtensor import local


class PrefixEncoder(nn.Module):
    """Makes the keys and values of P places.

    Args:
        length: number of places, P.
        layers: number of layers of the model.
        heads: number of heads of keys and values.
        head_dim: size of a head.
        width: size of the places' embeddings before a projection.
        hidden: size between the projection's layers; None for no projection.
    """

    def __init__(
        self, length: int, layers: int, heads: int, head_dim: int, *, width: int = 0, hidden: int | None = None
    ) -> None:
        super().__init__()
        features = 2 * layers * heads * head_dim
        self.length, self.heads, self.head_dim = length, heads, head_dim
        self.embedding = nn.Embedding(length, features if hidden is None else width)
        self.trans = (
            None if hidden is None else nn.Sequential(Linear(width, hidden), nn.Tanh(), Linear(hidden, features))
        )

    def forward(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer, two of [P, Hk, D]."""
        places = local(self.embedding.weight)
        states = places if self.trans is None else self.trans(places)
        layers = states.view(self.length, -1, 2, self.heads, self.head_dim).unbind(1)
        return [(layer[:, 0], layer[:, 1]) for layer in layers]


class PrefixedCache(KVCache):
    """A cache in which the keys and values of placeholders are those of a prefix.

    Args:
        cache: where they are kept.
        prefix: those of each layer, two of [P, Hk, D].
        places: the place in the prefix of each token of the call; P and more for tokens of the text, [B or 1, S].
    """

    def __init__(
        self, cache: KVCache, prefix: Sequence[tuple[torch.Tensor, torch.Tensor]], places: torch.Tensor
    ) -> None:
        self._cache, self._prefix, length = cache, prefix, len(prefix[0][0])
        self._is_text = (places >= length)[:, None, :, None]
        self._places = places.clamp(max=length - 1)

    @property
    def num_layers(self) -> int:
        """The number of decoder layers."""
        return self._cache.num_layers

    def layer(self, index: int) -> LayerCache:
        """The part of the cache that one layer uses."""
        return LayerCache(self, index)

    def append(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, H, S, D] of a layer, the prefix in place of placeholders; all so far."""
        own = (states[self._places].transpose(1, 2).to(key.dtype) for states in self._prefix[index])
        found = (torch.where(self._is_text, new, old) for new, old in zip((key, value), own, strict=True))
        return self._cache.append(index, *found)

    def advance(self, count: int) -> None:
        """Count the tokens of a call, placeholders included."""
        self._cache.advance(count)
