"""The configuration of BERT and RoBERTa."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from flagai.catalog.card import MODEL_TYPES
from flagai.data.tokenizer.padding import VocabularyPadding, vocabulary_padding
from flagai.families.config_content import architecture_of, model_type_of
from flagai.model.config import ModelConfig
from flagai.model.config_fields import COUNT, HEADS, LAYERS, PROBABILITY, SCALE, SIZE, TOKEN_ID, VOCABULARY, setting
from flagai.typed_json import Fields, shown

# What a classifier's outputs are: transformers' names; None is one class of several, or one number.
PROBLEM_TYPES = (None, "single_label_classification", "multi_label_classification", "regression")
# FlagAI's norms use this epsilon where its configuration names none; Hugging Face's default is 1e-12.
_FLAGAI_EPSILON = 1e-6


@dataclass(kw_only=True)
class BertConfig(ModelConfig):
    """BERT's configuration, under the key names of Google's, Hugging Face's and FlagAI's files."""

    family: ClassVar[str] = "bert"
    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES["bert"]
    fixed: ClassVar[Mapping[str, Any]] = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }

    vocab_size: int = setting(range=VOCABULARY, doc="rows of the token embedding")
    hidden_size: int = setting(range=SIZE, doc="size of the hidden states")
    num_hidden_layers: int = setting(range=LAYERS, doc="number of transformer blocks")
    num_attention_heads: int = setting(range=HEADS, doc="number of attention heads; they divide hidden_size")
    intermediate_size: int | None = setting(
        None, range=SIZE, doc="inner size of the feed-forward layers; null for 4 * hidden_size"
    )
    hidden_act: str = setting("gelu", doc="activation of the feed-forward layers")
    hidden_dropout_prob: float = setting(
        0.1, range=PROBABILITY, doc="dropout of the embeddings and of what each block adds"
    )
    attention_probs_dropout_prob: float = setting(0.1, range=PROBABILITY, doc="dropout of the attention weights")
    max_position_embeddings: int = setting(512, range=SIZE, doc="rows of the position embedding")
    type_vocab_size: int = setting(2, range=SIZE, doc="rows of the segment embedding")
    layer_norm_eps: float = setting(
        1e-12, range=PROBABILITY, aliases=("layernorm_epsilon",), doc="epsilon of the layer norms"
    )
    pad_token_id: int | None = setting(0, range=TOKEN_ID, doc="the padding token; null for none")
    position_offset: int = setting(
        0,
        range=COUNT,
        doc="position of the first token: 0 for BERT, pad_token_id + 1 for RoBERTa, which counts non-padding tokens",
    )
    initializer_range: float = setting(0.02, range=SCALE, doc="standard deviation of randomly initialized weights")
    tie_word_embeddings: bool = setting(True, doc="the masked-LM head shares the token embedding")
    class_num: int | None = setting(None, range=SIZE, aliases=("num_labels",), doc="number of classes of the head")
    problem_type: str | None = setting(
        None,
        doc="what a classifier's outputs are: single_label_classification, multi_label_classification or regression",
    )
    inner_dim: int = setting(64, range=HEADS, doc="size of GlobalPointer's queries and keys; even")

    @classmethod
    def adapt(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values after older spellings, with the number of classes that ``id2label`` or the head means."""
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
        """The values with the padding id of the vocabulary, if there is one.

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
        """All fields; transformers knows ``class_num`` as ``num_labels`` and believes ``id2label``."""
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
        """Refuse values that are impossible, or contradict each other."""
        width, heads = self.hidden_size, self.num_attention_heads
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
        self.require(width % heads == 0, f"hidden_size {width} is not a multiple of {heads} heads")


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
