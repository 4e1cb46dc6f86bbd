"""GLM, the original series: configuration, backbone and heads.

Source: Du et al. 2022, "GLM: General Language Model Pretraining with Autoregressive Blank Infilling";
behaviour checked against THUDM/GLM and FlagAI.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.block import BlockStack, GLMBlock
from flagai.model.config import ModelConfig
from flagai.model.inputs import checked_ids
from flagai.model.layer import Causal, Dense, Embeddings, KVCache, LayerNorm, Mask, Pooler, Prefix, PromptSpell
from flagai.model.layer.loss import cross_entropy, masked_cross_entropy
from flagai.model.layer.mask import visibility
from flagai.model.weights import glm

Output = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class GLMConfig(ModelConfig):
    """GLM's configuration, under the key names of FlagAI's and THUDM's files.

    ``max_memory_length`` and ``parallel_output`` are kept for the files' sake and change nothing;
    ``attention_scale`` guards the original's kernel against overflow and is neutral in exact arithmetic.
    """

    family: ClassVar[str] = "glm"
    model_types: ClassVar[tuple[str, ...]] = ("glm",)
    aliases: ClassVar[dict[str, str]] = {"num_labels": "class_num"}
    required: ClassVar[tuple[str, ...]] = (
        "num_layers",
        "vocab_size",
        "hidden_size",
        "num_attention_heads",
        "max_sequence_length",
    )

    num_layers: int
    vocab_size: int
    hidden_size: int
    num_attention_heads: int
    max_sequence_length: int
    embedding_dropout_prob: float = 0.1
    attention_dropout_prob: float = 0.1
    output_dropout_prob: float = 0.1
    max_memory_length: int = 0
    checkpoint_num_layers: int = 1
    parallel_output: bool = True
    relative_encoding: bool = False
    block_position_encoding: bool = True
    output_predict: bool = True
    spell_length: int | None = None
    spell_func: str = "lstm"
    attention_scale: float = 1.0
    layernorm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    class_num: int | None = None
    hidden_dropout: float = 0.1
    pool_token: str = "cls"  # noqa: S105 - a token of a text
    take_softmax: bool | None = None
    length_penalty: float = 0.0

    def check(self) -> None:
        """See the base class."""
        heads = self.num_attention_heads
        self.require(
            heads > 0 and self.hidden_size % heads == 0, f"hidden_size {self.hidden_size} is no multiple of {heads} heads"
        )
        self.require(not self.relative_encoding, "relative_encoding is not supported; no published GLM uses it")
        self.require(
            self.pool_token in ("cls", "start", "pad"), f"pool_token is {self.pool_token!r}; known: cls, start, pad"
        )


class GLMModel(BaseModel):
    """GLM's backbone with its language-model head, which shares the token embeddings.

    Args:
        config: the configuration.
    """

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
            (
                GLMBlock(
                    config.hidden_size,
                    config.num_attention_heads,
                    eps=config.layernorm_epsilon,
                    dropout=config.output_dropout_prob,
                    attention_dropout=config.attention_dropout_prob,
                )
                for _ in range(config.num_layers)
            ),
            checkpoint_activations=config.checkpoint_activations,
            group=config.checkpoint_num_layers,
        )
        self.norm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def init_std(self, name: str) -> float:
        """See the base class; layers that write into the residual stream start smaller the deeper the model is."""
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
        mems: KVCache | None = None,
        return_memory: bool = False,
        detach_memory: bool = True,
        prompt_pos: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        **redundant: Any,
    ) -> Output:
        """Run the model.

        Args:
            input_ids: token ids, [B, S].
            position_ids: [B, 2, S]: the position in the text and the position inside the span; [B, S] for models
                without block positions. Default: running positions, block position 0.
            attention_mask: a separator or a matrix. A separator ([] or [1] for all rows, [B] for each) says how
                many tokens everybody sees; the rest is causal, and remembered tokens are always visible. A matrix,
                [B, S, K] or [B, 1, S, K], is 1 where a query sees a key. Default: everybody sees everybody, or
                causal after a memory.
            mems: the memory that an earlier call returned; it stays valid and can be used again.
            return_memory: return the memory of all tokens so far as ``hidden_states``.
            detach_memory: cut the returned memory off from the gradient.
            prompt_pos: where each row has its learned prompt tokens, [B, P].
            labels: the target of every position, -100 for none, [B, S].
            cache: like ``mems``, but extended in place: the fastest way to decode.
            output_hidden_states: also return ``all_hidden_states``.
            **redundant: ignored.

        Returns:
            ``logits`` [B, S, V]; ``hidden_states`` [B, S, width] after the last norm (the memory with
            ``return_memory``); ``loss`` with ``labels``; ``cache`` if one is in use; ``all_hidden_states``, the
            embeddings and every block's output.

        Raises:
            InputError: an argument has an impossible shape or value.
        """
        self.ignore(redundant)
        input_ids = checked_ids(input_ids)
        memory = mems.branch() if mems is not None else cache
        if memory is None and return_memory:
            memory = self.new_cache()
        past = 0 if memory is None else memory.length
        rows, count = input_ids.shape
        mask = separator_or_matrix(attention_mask, rows, count, past)
        positions, blocks = self._positions(position_ids, past, count, input_ids.device)
        words = self.embed.token(input_ids)
        if prompt_pos is not None:
            words = self._with_prompt(words, prompt_pos)
        embedded = self.embed(words, position_ids=positions, block_position_ids=blocks)
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        seen = visibility(mask, count, past + count, input_ids.device)
        hidden = self.norm(self.blocks(embedded, seen, cache=memory, states=states))
        output: Output = {"logits": self._logits(hidden), "hidden_states": hidden}
        if memory is not None:
            output["cache"] = memory
        if return_memory and memory is not None:
            output["hidden_states"] = memory.branch(detach=detach_memory)
        if states is not None:
            output["all_hidden_states"] = states
        if labels is not None and self.config.output_predict:
            output["loss"] = cross_entropy(output["logits"], labels)
        return output

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.embed.token.weight) if self.config.output_predict else hidden

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
        return Prefix(mask.reshape(-1))
    if mask.dim() == 3:
        mask = mask[:, None]
    if mask.dim() == 4 and mask.shape[0] in (1, rows) and mask.shape[2] in (1, count) and mask.shape[3] >= past + count:
        return Dense(mask.bool())
    raise InputError(
        f"attention_mask has shape {list(attention_mask.shape)}; GLM takes separators, [] or [{rows}], or a matrix, "
        f"[{rows}, {count}, {past + count}] or [{rows}, 1, {count}, {past + count}]."
    )


class _GLMHead(BaseModel):
    """A GLM with something on top."""

    config_class = GLMConfig
    names = glm.NAMES
    plan = glm.PLAN
    fresh = ("model.prompt.*", "pool.*", "classifier.*")

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.model = GLMModel(config)

    def init_std(self, name: str) -> float:
        """See the base class."""
        return self.model.init_std(name)

    def new_cache(self, capacity: int = 0) -> KVCache:
        """See :meth:`GLMModel.new_cache`."""
        return self.model.new_cache(capacity)


class GLMForSeq2Seq(_GLMHead):
    """GLM for sequence-to-sequence training and generation (titles, poems).

    Args:
        config: the configuration.
    """

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Run the model.

        Args:
            input_ids: [B, S]
            position_ids: see :meth:`GLMModel.forward`.
            attention_mask: see :meth:`GLMModel.forward`.
            target_ids: the target of every position, [B, S]; targets equal to 0 add nothing to the loss.
            loss_mask: weight of every target, [B, S]; default 1.
            **others: see :meth:`GLMModel.forward`.

        Returns:
            As the backbone; with ``target_ids`` also ``loss``, and ``logits`` flattened to [B * S, V].
        """
        output: Output = self.model(input_ids, position_ids, attention_mask, **others)
        if target_ids is None:
            return output
        mask = torch.ones_like(target_ids) if loss_mask is None else loss_mask
        output["loss"] = masked_cross_entropy(output["logits"], target_ids, mask, ignore_index=0)
        output["logits"] = output["logits"].flatten(0, 1)
        return output


class GLMForSingleTokenCloze(_GLMHead):
    """Scores one-token answers at the blank.

    Args:
        config: the configuration; ``take_softmax=True`` gives log-probabilities (default: logits).
    """

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Score candidates at the first token after the separator.

        Args:
            input_ids: [B, S]
            position_ids: see :meth:`GLMModel.forward`.
            attention_mask: the separator of each row, [B].
            target_ids: the candidates, [B, C].
            labels: the right candidate, [B].
            **others: see :meth:`GLMModel.forward`.

        Returns:
            ``logits`` [B, C]; ``target_logits`` [B, V], the logits of all tokens there; ``hidden_states``; ``loss`` with
            ``labels``. Without ``target_ids`` as the backbone.
        """
        output: Output = self.model(input_ids, position_ids, attention_mask, **others)
        if target_ids is None:
            return output
        separators = _row_separators(attention_mask, len(target_ids))
        at_blank = output["logits"][torch.arange(len(target_ids), device=separators.device), separators]
        scores = F.log_softmax(at_blank, dim=-1) if self.config.take_softmax else at_blank
        output |= {"logits": scores.gather(1, target_ids), "target_logits": at_blank}
        if labels is not None:
            output["loss"] = cross_entropy(output["logits"], labels)
        return output


def _row_separators(attention_mask: torch.Tensor | None, rows: int) -> torch.Tensor:
    if attention_mask is None or attention_mask.numel() not in (1, rows):
        raise InputError("This head needs the separator of every row as attention_mask, [B].")
    return attention_mask.reshape(-1).expand(rows).long()


def _flat(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """[B, C, ...] -> [B * C, ...]."""
    return None if tensor is None else tensor.flatten(0, 1)


class GLMForMultiTokenCloze(_GLMHead):
    """Scores answers of several tokens in the blank.

    Args:
        config: the configuration; ``take_softmax=False`` sums logits instead of log-probabilities,
            ``length_penalty`` divides a score by (answer's length) ** penalty.
    """

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        logit_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Score each choice.

        Args:
            input_ids: [B, C, S], or [B, S] for single texts.
            position_ids: [B, C, 2, S] or [B, 2, S].
            attention_mask: separators, [B, C] or [B].
            target_ids: the token that each position shall predict, as ``input_ids``.
            logit_mask: 1 at the positions of the answer, as ``input_ids``.
            labels: the right choice, [B]; for single texts whether the answer is right, [B].
            **others: see :meth:`GLMModel.forward`.

        Returns:
            ``logits`` [B, C] or [B]; ``hidden_states``; ``loss`` with ``labels``. Without ``target_ids`` as the
            backbone.
        """
        ids = checked_ids(input_ids, (2, 3))
        choices = ids.shape[1] if ids.dim() == 3 else None
        if choices is not None:
            ids, position_ids, attention_mask = ids.flatten(0, 1), _flat(position_ids), _flat(attention_mask)
            target_ids, logit_mask = _flat(target_ids), _flat(logit_mask)
        output: Output = self.model(ids, position_ids, attention_mask, **others)
        if target_ids is None:
            return output
        scores = self.score(output["logits"], target_ids, logit_mask)
        output["logits"] = scores if choices is None else scores.view(-1, choices)
        if labels is not None:
            output["loss"] = choice_loss(output["logits"], labels)
        return output

    def score(
        self, logits: torch.Tensor, target_ids: torch.Tensor, logit_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The score of each row's answer: logits [B, S, V], targets and mask [B, S] -> [B]."""
        mask = torch.ones_like(target_ids) if logit_mask is None else logit_mask
        if self.config.take_softmax is not False:
            logits = F.log_softmax(logits.float(), dim=-1)
        chosen = logits.gather(-1, target_ids[..., None])[..., 0] * mask
        scores = chosen.sum(-1)
        if self.config.length_penalty > 0:
            scores = scores / mask.sum(-1) ** self.config.length_penalty
        return scores


def choice_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy over choices, [B, C] and [B]; binary cross entropy for single scores, [B] and [B]."""
    if scores.dim() == 1:
        return F.binary_cross_entropy_with_logits(scores.float(), labels.float())
    return cross_entropy(scores, labels)


class GLMForMultiTokenClozeFast(GLMForMultiTokenCloze):
    """The same scores with the text encoded once for all its choices.

    Args:
        config: the configuration.
    """

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        dec_input_ids: torch.Tensor | None = None,
        dec_position_ids: torch.Tensor | None = None,
        dec_attention_mask: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        logit_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Score each choice.

        Args:
            input_ids: the texts, [B, S].
            position_ids: [B, 2, S]
            attention_mask: lengths of the texts, [B].
            dec_input_ids: the choices, each with its start token, [B, C, T].
            dec_position_ids: [B, C, 2, T]
            dec_attention_mask: how much of its text each choice sees, [B, C].
            target_ids: the token that each position shall predict, [B, C, T].
            logit_mask: 1 at the positions of the answer, [B, C, T].
            labels: the right choice, [B].
            **others: ignored.

        Returns:
            ``logits`` [B, C]; ``hidden_states`` of the choices, [B * C, T, width]; ``loss`` with ``labels``.
        """
        self.ignore(others)
        if dec_input_ids is None or dec_attention_mask is None or target_ids is None:
            raise InputError("GLMForMultiTokenClozeFast needs dec_input_ids, dec_attention_mask and target_ids.")
        rows, choices, count = dec_input_ids.shape
        text = self.model(input_ids, position_ids, attention_mask, return_memory=True, detach_memory=False)
        memory: KVCache = text["hidden_states"]
        memory.select(torch.arange(rows, device=dec_input_ids.device).repeat_interleave(choices))
        mask = _text_and_past(dec_attention_mask.flatten(), memory.length, count)
        output: Output = self.model(_flat(dec_input_ids), _flat(dec_position_ids), mask, cache=memory)
        scores = self.score(output["logits"], target_ids.flatten(0, 1), _flat(logit_mask))
        output["logits"] = scores.view(rows, choices)
        if labels is not None:
            output["loss"] = choice_loss(output["logits"], labels)
        return output


def _text_and_past(lengths: torch.Tensor, remembered: int, count: int) -> torch.Tensor:
    """Queries see the first tokens of their text and each other causally, [B, 1, count, remembered + count]."""
    text = torch.arange(remembered, device=lengths.device) < lengths[:, None]
    text = text[:, None, None].expand(-1, 1, count, -1)
    causal = Causal().dense(count, count, lengths.device).expand(len(lengths), 1, -1, -1)
    return torch.cat([text, causal], dim=-1)


class GLMForSequenceClassification(_GLMHead):
    """Classifies a text, or chooses between texts, by one pooled token.

    Args:
        config: the configuration, with ``class_num`` and ``pool_token``: "cls" (the first token), "start" (the
            first one after the separator) or "pad" (the last one before it).
    """

    prefixes: ClassVar[dict[str, str]] = {"flagai": "model.", "huggingface": "model."}

    def __init__(self, config: GLMConfig) -> None:
        config.require(config.class_num is not None, "GLMForSequenceClassification needs class_num=<number of classes>")
        super().__init__(config.replace(output_predict=False))
        self.pool = Pooler(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.class_num or 1)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> Output:
        """Classify.

        Args:
            input_ids: [B, S]; [B, C, S] to choose between texts.
            position_ids: [B, 2, S] or [B, C, 2, S].
            attention_mask: separators, [B] or [B, C].
            labels: [B]
            **others: see :meth:`GLMModel.forward`.

        Returns:
            ``logits`` [B, classes], [B] for one class, [B, C] for choices; ``hidden_states``; ``loss`` with
            ``labels``.
        """
        ids = checked_ids(input_ids, (2, 3))
        choices = ids.shape[1] if ids.dim() == 3 else None
        if choices is not None:
            ids, position_ids, attention_mask = ids.flatten(0, 1), _flat(position_ids), _flat(attention_mask)
        output: Output = self.model(ids, position_ids, attention_mask, **others)
        pooled = self.pool(self._pooled_state(output["logits"], attention_mask))
        logits = self.classifier(self.dropout(pooled))
        if choices is not None:
            logits = logits.view(-1, choices)
        elif self.config.class_num == 1:
            logits = logits[:, 0]
        output["logits"] = logits
        if labels is not None:
            output["loss"] = choice_loss(logits, labels)
        return output

    def _pooled_state(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if self.config.pool_token == "cls":  # noqa: S105 - a token of a text
            return hidden[:, 0]
        index = _row_separators(attention_mask, len(hidden))
        if self.config.pool_token == "pad":  # noqa: S105
            index = index - 1
        return hidden[torch.arange(len(hidden), device=index.device), index]
