"""BERT, and RoBERTa-base-ch, which is a BERT: configuration and backbone; heads: :mod:`flagai.model.bert_model`.

Source: Devlin et al. 2019, "BERT".
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from flagai.model.base_model import BaseModel
from flagai.model.block import BertBlock, BlockStack
from flagai.model.config import ModelConfig, architecture_of, model_type_of
from flagai.model.config_values import Count, Heads, Layers, Rate, Scale, Size, TokenId, Vocabulary
from flagai.model.inputs import Output, checked_ids, join, packed_row, padding_and_matrix, real_tokens, result
from flagai.model.layer import Embeddings, KVCache, Mask, Packed, PackedRow, Pooler
from flagai.model.layer.mask import prepare_mask
from flagai.model.layer.packed_row import Lengths
from flagai.model.meta_init import build_layers
from flagai.model.padding_id import VocabularyPadding, vocabulary_padding
from flagai.model.weights import bert
from flagai.typed_json import Fields, shown

# What a classifier's outputs are: transformers' names; None is one class of several, or one number.
PROBLEM_TYPES = (None, "single_label_classification", "multi_label_classification", "regression")
# FlagAI's norms use this epsilon where its configuration names none; Hugging Face's default is 1e-12.
_FLAGAI_EPSILON = 1e-6


@dataclass(kw_only=True)
class BertConfig(ModelConfig):
    """BERT's configuration, under the key names of Google's, Hugging Face's and FlagAI's files.

    ``position_offset`` is 0 for BERT. Real RoBERTa counts real tokens from ``pad_token_id + 1`` on.
    """

    family: ClassVar[str] = "bert"
    model_types: ClassVar[tuple[str, ...]] = ("bert", "roberta")
    aliases: ClassVar[Mapping[str, str]] = {"layernorm_epsilon": "layer_norm_eps", "num_labels": "class_num"}
    required: ClassVar[tuple[str, ...]] = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    fixed: ClassVar[Mapping[str, Any]] = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }

    vocab_size: Vocabulary
    hidden_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Heads
    intermediate_size: Size | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    layer_norm_eps: Rate = 1e-12
    pad_token_id: TokenId | None = 0
    position_offset: Count = 0
    initializer_range: Scale = 0.02
    tie_word_embeddings: bool = True
    class_num: Size | None = None
    problem_type: str | None = None
    inner_dim: Heads = 64

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """See the base class."""
        adapted = dict(values)
        stated = Fields(values, cls.__name__)
        if values.get("pad_token_id") is None and "position_offset" not in values:  # null of files that are not ours
            adapted.pop("pad_token_id", None)
        if values.get("vocab_size") is None:  # the first files for PyTorch
            adapted["vocab_size"] = values.get("vocab_size_or_config_json_file")
        if stated.integer("class_num", None) is None and stated.integer("num_labels", None) is None:
            # transformers writes the number of classes only where it is not two
            adapted["class_num"] = len(stated.mapping("id2label")) or (2 if _classifies(values) else None)
        if not values.get("model_type") and not {"layer_norm_eps", "layernorm_epsilon"} & values.keys():
            adapted["layer_norm_eps"] = _FLAGAI_EPSILON
        if _is_roberta(values):
            adapted |= _roberta(values)
        return adapted

    @classmethod
    def beside(cls, values: Mapping[str, Any], folder: Path, settled: Container[str]) -> Mapping[str, Any]:
        """See the base class: the padding id is that of the vocabulary, if there is one.

        Without one, ``"pad_token_id": 1`` is what RoBERTa's defaults have left in configurations of models that are
        BERTs. Our own files, which say ``position_offset``, mean it, as RoBERTa's do, whose positions count from it.
        """
        if "pad_token_id" in settled or (_is_roberta(values) and "position_offset" not in settled):
            return values
        said = Fields(values, str(folder / "config.json"))
        stated, size = said.integer("pad_token_id", 0), said.integer("vocab_size", 0)
        found = vocabulary_padding(folder, size)
        if found is None and stated == 1 and "position_offset" not in values:
            found = VocabularyPadding(0, "a BERT's vocabulary")
        return values if found is None or found.id in (None, stated) else found.instead_of(stated, values, folder)

    def to_dict(self) -> dict[str, Any]:
        """See the base class; transformers knows ``class_num`` as ``num_labels`` and believes ``id2label`` first."""
        values = super().to_dict()
        if self.class_num is None:
            return values
        if len(values.get("id2label") or ()) != self.class_num:
            values = {key: value for key, value in values.items() if key not in ("id2label", "label2id")}
        return {**values, "num_labels": self.class_num}

    @property
    def longest_text(self) -> int:
        """How many tokens of a text have a position."""
        return self.max_position_embeddings - self.position_offset

    def check(self) -> None:
        """See the base class."""
        heads = self.num_attention_heads
        self.require(
            self.pad_token_id is None or self.pad_token_id < self.vocab_size,
            f"pad_token_id {self.pad_token_id} is outside of the vocabulary, which has vocab_size {self.vocab_size}",
        )
        self.require(
            self.problem_type in PROBLEM_TYPES, f"problem_type is {shown(self.problem_type)}; known: {PROBLEM_TYPES}"
        )
        self.require(
            self.class_num != 1 or self.problem_type != "single_label_classification",
            "problem_type single_label_classification needs more than the 1 class of class_num",
        )
        self.require(
            self.longest_text > 0,
            f"max_position_embeddings {self.max_position_embeddings} leaves no position behind the first "
            f"{self.position_offset}",
        )
        self.require(self.inner_dim % 2 == 0, f"inner_dim {self.inner_dim} is odd; rotary positions need pairs")
        self.require(
            heads > 0 and self.hidden_size % heads == 0,
            f"hidden_size {self.hidden_size} is no multiple of {heads} heads",
        )


def _classifies(values: Mapping[str, Any]) -> bool:
    return (architecture_of(values) or "").endswith(("ForSequenceClassification", "ForTokenClassification"))


def _roberta(values: Mapping[str, Any]) -> dict[str, Any]:
    """RoBERTa's padding id, and the positions before the first that count from it.

    Raises:
        ConfigError: the configuration contradicts itself.
    """
    stated = Fields(values, BertConfig.__name__)
    pad = stated.integer("pad_token_id", None if "pad_token_id" in values else 1)
    found = {"pad_token_id": pad, "position_offset": stated.integer("position_offset", None)}
    if found["position_offset"] is not None:
        return found
    if pad is None:
        stated.fail("pad_token_id", "is null, but RoBERTa's positions count from it. Write 1, or what the model has.")
    if (architecture_of(values) or "").startswith("Bert"):
        stated.fail(
            "model_type",
            "is roberta, but architectures name a class of BERT, whose positions count from 0. Pass position_offset=0 "
            f"for a BERT, or position_offset={pad + 1} for a RoBERTa.",
        )
    return {**found, "position_offset": pad + 1}


def _is_roberta(values: Mapping[str, Any]) -> bool:
    return model_type_of(values, {"Roberta": "roberta"}) == "roberta"


def check_prefix(names: Iterable[str], config: BertConfig) -> None:
    """Refuse weights whose names say BERT where the configuration says RoBERTa, or the other way round.

    Args:
        names: of the checkpoint's tensors.
        config: the model's configuration.

    Raises:
        ConfigError: positions would count from another number than in training.
    """
    wrong, pad = "roberta.", config.pad_token_id or 1
    cure = f"Pass position_offset={pad + 1}, pad_token_id={pad} for these weights of a RoBERTa."
    if config.position_offset:
        wrong, cure = "bert.", "Pass position_offset=0 for these weights of a BERT."
    name = next((name for name in names if name.removeprefix("module.").startswith(wrong)), None)
    config.require(
        name is None, f"position_offset is {config.position_offset}, but the weights are called {name}. {cure}"
    )


class BertModel(BaseModel):
    """BERT's backbone.

    Args:
        config: the configuration.
    """

    config_class = BertConfig
    names = bert.NAMES
    plan = bert.PLAN
    architecture = "BertModel"
    optional = ("pooler",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.embed = Embeddings(
            config.vocab_size,
            config.hidden_size,
            positions=config.max_position_embeddings,
            segments=config.type_vocab_size,
            norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.blocks = BlockStack(
            build_layers(
                lambda: BertBlock(
                    config.hidden_size,
                    config.num_attention_heads,
                    config.intermediate_size or 4 * config.hidden_size,
                    activation=config.hidden_act,
                    eps=config.layer_norm_eps,
                    dropout=config.hidden_dropout_prob,
                    attention_dropout=config.attention_probs_dropout_prob,
                ),
                config.num_hidden_layers,
            ),
            checkpoint_activations=config.checkpoint_activations,
        )
        self.pooler: Pooler | None = Pooler(config.hidden_size)

    def check_names(self, names: Iterable[str]) -> None:
        """See the base class."""
        check_prefix(names, self.config)

    def new_cache(self, capacity: int = 0) -> KVCache:
        """An empty cache, for decoding with :class:`BertForSeq2seq`."""
        return KVCache(self.config.num_hidden_layers, capacity)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        position_ids: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        cache: KVCache | None = None,
        causal: Mask | None = None,
        **redundant: Any,
    ) -> Output:
        """Encode.

        Args:
            input_ids: token ids, [B, S].
            token_type_ids: which of two sentences a token belongs to, [B, S]; default 0.
            attention_mask: [B, S], 1 at real tokens (default: all that are not padding); or a matrix [B, S, S] or
                [B, 1, S, S] of who sees whom among the real tokens.
            lengths: number of tokens of each text, [N], if the texts stand one after the other in one row [1, T],
                without padding: every token is real then, and each text sees only itself.
            position_ids: [B, S]; default running.
            segment_ids: FlagAI's name of ``token_type_ids``.
            output_hidden_states: also return ``all_hidden_states``.
            cache: keys and values of earlier tokens; extended in place.
            causal: a further mask; used by :class:`BertForSeq2seq`.
            **redundant: ignored.

        Returns:
            ``logits`` and ``hidden_states``, both [B, S, width]; ``pooled`` [B, width] ([N, width] of packed texts),
            unless the checkpoint had no pooler; ``all_hidden_states`` (embeddings and every block's output);
            ``cache`` if one is in use.

        Raises:
            InputError: an argument has an impossible shape or value.
        """
        self.ignore(redundant)
        input_ids = checked_ids(input_ids)
        past, count = 0 if cache is None else cache.length, input_ids.shape[1]
        segments = segment_ids if token_type_ids is None else token_type_ids
        row = packed_row(input_ids, lengths, attention_mask=attention_mask, cache=cache, causal=causal)
        if row is None:
            valid = real_tokens(input_ids, attention_mask, self.config.pad_token_id, past)
            mask = padding_and_matrix(valid, attention_mask, cache, count)
            mask = mask if causal is None else join(causal, mask)
        else:
            row.check(self.config.longest_text)
            mask = Packed(row)
        embedded = self.embed(
            input_ids,
            position_ids=self._positions(input_ids, past, row) if position_ids is None else position_ids,
            segment_ids=torch.zeros_like(input_ids) if segments is None else segments,
        )
        states: list[torch.Tensor] | None = [] if output_hidden_states else None
        seen = prepare_mask(mask, count, past + count, input_ids.device)
        hidden = self.blocks(embedded, seen, cache=cache, states=states)
        first = hidden[:, 0] if row is None else row.first(hidden)
        pooled = None if self.pooler is None else self.pooler(first)
        return result(hidden, hidden, pooled=pooled, cache=cache, all_hidden_states=states)

    def _positions(self, input_ids: torch.Tensor, past: int, row: PackedRow | None) -> torch.Tensor:
        if row is not None:
            return row.positions(input_ids.device) + self.config.position_offset
        if self.config.position_offset:
            real = (input_ids != self.config.pad_token_id).long()
            return real.cumsum(1) * real + self.config.position_offset - 1
        return torch.arange(past, past + input_ids.shape[1], device=input_ids.device)[None]
