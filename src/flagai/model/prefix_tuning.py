"""What models with a learned prefix have in common (P-Tuning v2).

Source: Liu et al. 2022, "P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Across Scales and Tasks".
"""

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from flagai.checkpoint.reader import Checkpoint, open_checkpoint
from flagai.data.prompt import Prompt
from flagai.errors import CheckpointError, InputError
from flagai.model.base_model import BaseModel
from flagai.model.layer import KVCache
from flagai.model.layer.prefix_encoder import PrefixedCache, PrefixEncoder

States = list[tuple[torch.Tensor, torch.Tensor]]
_FILE_NAMES = ("transformer.prefix_encoder.", "prefix_encoder.", "prefix.")


class PrefixTunedModel(BaseModel):
    """A decoder that may have learned keys and values in front of every text."""

    optional = ("prefix",)
    prefix: PrefixEncoder | None

    def new_prefix(self, length: int, hidden: int | None) -> PrefixEncoder:
        """An encoder for a prefix of so many places, with a projection of this inner size or none."""
        raise NotImplementedError

    @property
    def prefix_length(self) -> int:
        """Number of places of the prefix; 0 without one."""
        return 0 if self.prefix is None else self.prefix.length

    def load_prefix_encoder(self, path: str | Path) -> None:
        """Load a prefix that was trained beside the model, from a file or folder with `prefix_encoder.*` alone.

        Args:
            path: the file or folder.

        Raises:
            CheckpointError: it holds no prefix, or one for a model of another shape; the model is as it was.
        """
        found = open_checkpoint(path)
        tensors = {_without_prefix(name): found.tensors(name)[0] for name in found}
        if "embedding.weight" not in tensors:
            raise CheckpointError(f"{path} holds no prefix: expected transformer.prefix_encoder.embedding.weight.")
        hidden = tensors.get("trans.0.weight")
        made = self.new_prefix(len(tensors["embedding.weight"]), None if hidden is None else len(hidden))
        wanted = {name: value.shape for name, value in made.state_dict().items()}
        own = {name: value for name, value in tensors.items() if name in wanted}
        if {name: value.shape for name, value in own.items()} != wanted:
            shapes = {name: list(value.shape) for name, value in own.items()}
            raise CheckpointError(
                f"{path} holds a prefix of {shapes}; this model takes "
                f"{ {name: list(shape) for name, shape in wanted.items()} }. Load it beside the model of its training."
            )
        like = next(self.parameters())
        made.load_state_dict(own)
        self.prefix = made.to(device=like.device, dtype=like.dtype).train(self.training)

    def check_names(self, names: Checkpoint | Any) -> None:
        """Refuse weights with a prefix that the configuration does not mention: it would be left out."""
        held = any(".prefix_encoder." in f".{name}" for name in names)
        if held and self.prefix is None:
            raise InputError(
                "The weights have a prefix (P-Tuning v2), but pre_seq_len says none: pass pre_seq_len=<its length>, "
                "and prefix_projection=True if it has `trans`; or load the model alone and then load_prefix_encoder()."
            )

    def prompt_for(self, prompt: Prompt) -> Prompt:
        """A prompt with placeholders in front, whose keys and values the prefix gives."""
        count = self.prefix_length
        ids = (*prompt.ids[:1] * count, *prompt.ids)
        return Prompt(ids, tuple(place + count for place in prompt.blanks)) if count else prompt

    def opens(self, cache: KVCache | None) -> bool:
        """Whether a call must put placeholders in front: for the engine, :meth:`prompt_for` has done so."""
        return self.prefix is not None and (cache is None or (not cache.length and cache.attn_mask is None))

    def with_placeholders(
        self, ids: torch.Tensor, attention_mask: torch.Tensor | None, cache: KVCache | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Ids and mask of a call with the placeholders that they lack.

        Args:
            ids: [B, S]
            attention_mask: [B, S], [B, past + S] or a matrix, [B, S, K] or [B, 1, S, K].
            cache: the cache of the call.
        """
        count, opening = self.prefix_length, self.opens(cache)
        if attention_mask is not None and (opening or attention_mask.shape[-1] != ids.shape[1]):
            rows = (count, 0) if opening and attention_mask.dim() > 2 else ()
            attention_mask = F.pad(attention_mask, (count, 0, *rows), value=1)
        return torch.cat([ids[:, :1].expand(-1, count), ids], dim=1) if opening else ids, attention_mask

    def with_places(self, positions: torch.Tensor | None, cache: KVCache | None) -> torch.Tensor | None:
        """A caller's positions, [B or 1, ..., S], counted from the first placeholder; the engine's are."""
        if positions is None or (cache is not None and cache.attn_mask is not None):
            return positions
        found, count = positions.clone(), self.prefix_length
        first = found if found.dim() == 2 else found[:, 0]
        first += count
        if not self.opens(cache):
            return found
        found = F.pad(found, (count, 0))
        (found if found.dim() == 2 else found[:, 0])[:, :count] = torch.arange(count, device=found.device)
        return found

    def reading(self, cache: KVCache | None, places: torch.Tensor) -> KVCache | None:
        """The cache for the blocks, which gives placeholders the prefix' keys and values.

        Args:
            cache: the cache of the call.
            places: positions that count the placeholders, [B or 1, S].
        """
        if self.prefix is None:
            return cache
        if cache is not None and cache.attn_mask is not None and cache.attn_mask.table is not None:
            return cache  # a step: no placeholders
        inner = self._plain_cache() if cache is None else cache
        return PrefixedCache(inner, self._states_of_rank(self.prefix()), places)

    def _states_of_rank(self, states: States) -> States:
        """The heads that this rank computes."""
        blocks: Any = self.blocks
        layer, size = blocks[0].attention.k, blocks[0].attention.head_dim
        mesh = getattr(layer, "tp_mesh", None)
        if mesh is None:
            return states
        from flagai.parallel.collectives import copy_to_group  # imports torch.distributed

        groups, rank, ranks = layer.out_features // size, mesh.get_local_rank(), mesh.size()
        begin = rank * groups // ranks
        own = slice(begin, begin + max(groups // ranks, 1))
        both = ((copy_to_group(key, layer.tp_group), copy_to_group(value, layer.tp_group)) for key, value in states)
        return [(key[:, own], value[:, own]) for key, value in both]

    def _plain_cache(self) -> KVCache:
        blocks: Any = self.blocks
        return KVCache(len(blocks))


def _without_prefix(name: str) -> str:
    return next((name.removeprefix(each) for each in _FILE_NAMES if name.startswith(each)), name)
