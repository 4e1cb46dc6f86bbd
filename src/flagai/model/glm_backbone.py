"""GLM, the original series: the backbone. The heads are in :mod:`flagai.model.glm_model`.

Source: Du et al. 2022, "GLM: General Language Model Pretraining with Autoregressive Blank Infilling";
behaviour checked against THUDM/GLM and FlagAI.
"""

from collections.abc import Sequence
from typing import Any

import torch

from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.block import BlockStack, GLMBlock
from flagai.model.glm_config import GLMConfig
from flagai.model.inputs import Output, as_bool_mask, checked_ids, gather_positions, result
from flagai.model.layer import Causal, Dense, Embeddings, KVCache, LayerNorm, Mask, Prefix, PromptSpell
from flagai.model.layer.loss import cross_entropy
from flagai.model.layer.mask import prepare_mask
from flagai.model.meta_init import build_layers
from flagai.model.weights import glm


class GLMModel(BaseModel):
    """GLM's backbone with its language-model head, which shares the token embeddings."""

    config_class = GLMConfig
    names = glm.NAMES
    plan = glm.PLAN
    architecture = "GLMModel"
    fresh = ("prompt.*",)

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        # With block positions the tables have one row more: masked spans may stand at the end.
        rows = config.max_sequence_length + (1 if config.block_position_encoding else 0)
        self.embed = Embeddings(
            config.vocab_size,
            config.hidden_size,
            positions=rows,
            block_positions=rows if config.block_position_encoding else 0,
            dropout=config.embedding_dropout_prob,
        )
        self.prompt = (
            PromptSpell(config.spell_length, config.hidden_size, config.spell_func) if config.spell_length else None
        )
        self.blocks = BlockStack(
            build_layers(
                lambda: GLMBlock(
                    config.hidden_size,
                    config.num_attention_heads,
                    eps=config.layernorm_epsilon,
                    dropout=config.output_dropout_prob,
                    attention_dropout=config.attention_dropout_prob,
                ),
                config.num_layers,
            ),
            checkpoint_activations=config.checkpoint_activations,
            group=config.checkpoint_num_layers,
        )
        self.norm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def init_std(self, name: str) -> float:
        """The standard deviation of a parameter; layers that write into the residual stream have less."""
        std: float = self.config.initializer_range
        writes = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
        return std / (2 * self.config.num_layers) ** 0.5 if writes else std

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache for decoding with this model.

        Args:
            capacity: how many positions to make room for.
        """
        return KVCache(self.config.num_layers, capacity)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        mems: KVCache | Sequence[torch.Tensor] | None = None,
        return_memory: bool = False,
        detach_memory: bool = True,
        prompt_pos: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        cache: KVCache | None = None,
        logits_at: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        **redundant: Any,
    ) -> Output:
        """Run the model.

        Args:
            input_ids: token ids, [B, S].
            position_ids: [B, 2, S]: the position in the text and the position inside the span; [B, S] for models
                without block positions. Default: running positions, block position 0.
            attention_mask: a separator or a matrix. A separator ([] or [1] for all rows, [B] for each) says how
                many tokens all queries attend to; the rest is causal, and cached tokens are never masked. A matrix,
                [B, S, K] or [B, 1, S, K], is 1 where a query attends to a key. Default: all to all, or
                causal after a memory.
            mems: the memory that an earlier call returned; it stays valid and can be used again. An empty list is
                none.
            return_memory: return the memory of all tokens so far as ``hidden_states``.
            detach_memory: cut the returned memory off from the gradient.
            prompt_pos: where each row has its learned prompt tokens, [B, P].
            labels: the target of every position, -100 for none, [B, S].
            cache: like ``mems``, but extended in place: the fastest way to decode.
            logits_at: the positions whose logits are wanted, [B, N]; default all. A long prompt needs only its last.
            output_hidden_states: also return ``all_hidden_states``.
            **redundant: ignored.

        Returns:
            ``logits`` [B, S or N, V]; ``hidden_states`` [B, S, width] after the last norm (the memory with
            ``return_memory``); ``loss`` with ``labels``; ``cache`` if one is in use; ``all_hidden_states``, the
            embeddings and every block's output.

        Raises:
            InputError: an argument has an impossible shape or value.
        """
        self.ignore(redundant)
        input_ids = checked_ids(input_ids)
        memory = self._memory(mems, cache, return_memory)
        past = 0 if memory is None else memory.length
        rows, count = input_ids.shape
        positions, blocks = self._positions(position_ids, past, count, input_ids.device)
        words = input_ids
        if prompt_pos is not None:
            words = self._with_prompt(self.embed.token(input_ids), prompt_pos)
        embedded = self.embed(words, position_ids=positions, block_position_ids=blocks)
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        attn_mask = None if memory is None else memory.attn_mask
        if attn_mask is None:
            mask = separator_or_matrix(attention_mask, rows, count, past)
            attn_mask = prepare_mask(mask, count, past + count, input_ids.device)
        hidden = self.norm(self.blocks(embedded, attn_mask, cache=memory, states=states))
        logits = self._logits(gather_positions(hidden, logits_at))
        return result(
            logits,
            memory.fork(detach=detach_memory) if return_memory and memory is not None else hidden,
            cache=memory,
            all_hidden_states=states,
            loss=None if labels is None or not self.config.output_predict else cross_entropy(logits, labels),
        )

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.embed.token.score(hidden) if self.config.output_predict else hidden

    def _memory(
        self, mems: KVCache | Sequence[torch.Tensor] | None, cache: KVCache | None, return_memory: bool
    ) -> KVCache | None:
        """The cache of earlier tokens, into which this call writes; a fork of ``mems``, which stays as it is."""
        if isinstance(mems, list | tuple) and not mems:  # no memory, as the original returns it
            mems = None
        if mems is not None and not isinstance(mems, KVCache):
            raise InputError(f"mems is of type {type(mems).__name__}; expected what return_memory=True gave.")
        memory = cache if mems is None else mems.fork()
        return self.new_cache() if memory is None and return_memory else memory

    def _positions(
        self, position_ids: torch.Tensor | None, past: int, count: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        blocked = self.config.block_position_encoding
        if position_ids is None:
            running = torch.arange(past, past + count, device=device)[None]
            return running, torch.zeros_like(running) if blocked else None
        expected = "[B, 2, S]" if blocked else "[B, S]"
        if position_ids.dim() != (3 if blocked else 2) or (blocked and position_ids.shape[1] != 2):
            raise InputError(f"position_ids have shape {list(position_ids.shape)}, this GLM expects {expected}.")
        return (position_ids[:, 0], position_ids[:, 1]) if blocked else (position_ids, None)

    def _with_prompt(self, words: torch.Tensor, prompt_pos: torch.Tensor) -> torch.Tensor:
        if self.prompt is None:
            raise InputError("prompt_pos needs a model with prompt tokens: load it with spell_length=...")
        return self.prompt.insert(words, prompt_pos)


def separator_or_matrix(attention_mask: torch.Tensor | None, rows: int, count: int, past: int) -> Mask | None:
    """Understand GLM's ``attention_mask``; see :meth:`GLMModel.forward`.

    The original decides by the number of elements, so that a [1, 1, 1, 1] matrix becomes a separator; here the
    number of dimensions decides.

    Args:
        attention_mask: a separator or a matrix.
        rows: B.
        count: number of queries, S.
        past: number of remembered positions.

    Raises:
        InputError: it is neither.
    """
    if attention_mask is None:
        return Causal() if past else None
    mask = attention_mask
    if mask.dim() < 3 and mask.numel() in (1, rows):
        # Separators on the host can be looked at: kernels have a fast path where all of them are 0.
        if mask.device.type == "cpu" and not torch.compiler.is_compiling() and not mask.any():
            return Causal()
        return Prefix(mask.reshape(-1))
    if mask.dim() == 3:
        mask = mask[:, None]
    if mask.dim() == 4 and mask.shape[0] in (1, rows) and mask.shape[2] in (1, count) and mask.shape[3] >= past + count:
        return Dense(as_bool_mask(mask))
    raise InputError(
        f"attention_mask has shape {list(attention_mask.shape)}; GLM takes separators, [] or [{rows}], or a matrix, "
        f"[{rows}, {count}, {past + count}] or [{rows}, 1, {count}, {past + count}]. "
        "A separator is the number of tokens that all queries attend to. "
        "To mask padding, give attention_mask[:, None, None, :]."
    )
