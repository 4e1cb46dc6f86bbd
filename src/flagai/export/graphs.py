"""What of a model is exported: modules that take and give tensors alone."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flagai.errors import ExportError
from flagai.export import ports
from flagai.export.ports import Port, Sizes
from flagai.families.family import family_and_row
from flagai.model.base_model import BaseModel
from flagai.model.layer import KVCache
from flagai.model.layer.adapted import merged_adapter
from flagai.model.layer.attention import Attention
from flagai.model.layer.mask import Causal
from flagai.model.layer.sdpa import AttentionMask
from flagai.model.predictor.sentence_folder import SentenceSettings
from flagai.model.quantization import how_quantized
from flagai.model.untrained import untrained

ENCODER = "encoder"  # what is exported of a model whose other parts are not
_IDS = Port("input_ids", "batch sequence", "token ids", ports.padded_ids)
_MASK = Port("attention_mask", "batch sequence", "1 at tokens, 0 at padding", ports.padding_mask)
_SEGMENTS = Port("token_type_ids", "batch sequence", "0 in the first text, 1 in the second of a pair", ports.segments)
_STATES = Port("last_hidden_state", "batch sequence width", "the states after the last layer")
_LABELS = Port("logits", "batch sequence classes", "the scores of the labels of each token")
_CLASSES = Port("logits", "batch classes", "the scores of the classes")


class Graph(nn.Module):
    """A model as it is exported.

    Args:
        model: the model.
        inputs: what ``forward`` takes, in this order.
        outputs: what it gives.
        **sizes: the model's own sizes, by the names of axes.
    """

    def __init__(self, model: BaseModel, inputs: Sequence[Port], outputs: Sequence[Port], **sizes: int) -> None:
        super().__init__()
        self.model: Any = model
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        config = model.config
        self.sizes = {"vocab": config.vocab_size, "padding": config.get("pad_token_id") or 0, **sizes}

    def sample(self, sizes: Sizes) -> tuple[torch.Tensor, ...]:
        """Inputs of these sizes."""
        found = {**self.sizes, **sizes}
        return tuple(port.sample(found) for port in self.inputs if port.sample is not None)


class BertGraph(Graph):
    """A BERT with any head.

    Args:
        model: the model.
        outputs: what is exported, by its key in what the model gives.
    """

    def __init__(self, model: Any, outputs: Mapping[str, Port]) -> None:
        self_outputs = {key: port for key, port in outputs.items() if key != "pooled" or model.pooler is not None}
        super().__init__(
            model, (_IDS, _MASK, _SEGMENTS), tuple(self_outputs.values()), segments=model.config.type_vocab_size
        )
        self.keys = tuple(self_outputs)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The model's outputs."""
        ids, mask, segments = inputs
        found = self.model(ids, attention_mask=mask, token_type_ids=segments)
        if "transitions" in self.keys:
            found["transitions"] = self.model.crf.transitions.clone()
        return tuple(found[key] for key in self.keys)


class GLMClassifier(Graph):
    """A GLM that classifies texts."""

    def __init__(self, model: Any) -> None:
        lengths = Port("attention_mask", "batch", "the length of each text", ports.text_lengths)
        super().__init__(model, (_IDS, _positions(model), lengths), (_CLASSES,))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The scores of the classes, [B, classes]."""
        logits = self.model(*inputs)["logits"]
        return (logits[:, None] if logits.dim() == 1 else logits,)


class T5Encoder(Graph):
    """The encoder of a T5."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, (_IDS, _MASK), (_STATES,))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The encoder's states, [B, S, width]."""
        return (self.model.encode(*inputs),)


# The last states of each family's backbone; texts are padded on the right.
STATES_OF: Mapping[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "bert": lambda model, ids, mask: model(ids, attention_mask=mask)["hidden_states"],
    "gpt2": lambda model, ids, mask: model(ids, attention_mask=mask)["hidden_states"],
    "glm": lambda model, ids, mask: model(ids, attention_mask=mask.sum(1))["hidden_states"],
    "t5": lambda model, ids, mask: model.encode(ids, mask),
}


class SentenceGraph(Graph):
    """A vector of each text, with the pooling, projections and scaling of the model's folder.

    Args:
        model: a model of any family that embeds.
        folder: its folder, which says how texts become vectors.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        vectors = Port("sentence_embedding", "batch width", "a vector of each text, float32")
        super().__init__(model.backbone, (_IDS, _MASK), (vectors,))
        self.settings = SentenceSettings.read(folder)
        if self.settings.prompts and not self.settings.pooling.include_prompt:
            raise ExportError(
                f"{folder} has prompts whose tokens its pooling leaves out (include_prompt), which the graph cannot "
                "tell from others. Use SentenceEmbedder, or export a model without include_prompt=false."
            )
        self.states = STATES_OF[model.config.family]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A vector of each text, [B, width]."""
        ids, mask = inputs
        return (self.settings.pooling.of_padded(self.states(self.model, ids, mask), mask),)


class _StepCache(KVCache):
    """The keys and values of the past as they are given, and with those of the new tokens."""

    def __init__(self, past: Sequence[torch.Tensor], allowed: torch.Tensor) -> None:
        super().__init__(len(past) // 2)
        self.states = list(past)
        self.attn_mask = AttentionMask(allowed | ~allowed.any(-1, keepdim=True))

    def append(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of the new tokens to those of a layer, and give all of them."""
        keys, values = (
            torch.cat([self.states[2 * index + number], new], dim=2) for number, new in enumerate((key, value))
        )
        self.states[2 * index : 2 * index + 2] = keys, values
        return keys, values


class DecoderStep(Graph):
    """One call of a decoder: new tokens and the keys and values of the past."""

    def __init__(self, model: Any) -> None:
        attention = next(each for each in model.modules() if isinstance(each, Attention))
        layers, dtype = model.new_cache().num_layers, next(model.parameters()).dtype
        kinds = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
        axes, sample = "batch heads {} head_size", ports.past_states(dtype)
        past = [Port(f"past_key_values.{kind}", axes.format("past"), "of the past", sample) for kind in kinds]
        present = [Port(f"present.{kind}", axes.format("total"), "of the past and the new tokens") for kind in kinds]
        super().__init__(
            model,
            (
                Port(_IDS.name, _IDS.axes, "the new tokens", ports.token_ids),
                _positions(model),
                _past_mask(model),
                *past,
            ),
            (Port("logits", "batch sequence vocab", "the scores of the next token"), *present),
            heads=attention.k.out_features // attention.head_dim,
            head_size=attention.head_dim,
        )

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Scores, and the keys and values of all tokens."""
        ids, positions, mask, *past = inputs
        seen = mask.bool()
        if seen.dim() == 2:
            allowed = seen[:, None, None] & Causal().dense(ids.shape[1], mask.shape[1], ids.device)
        else:
            allowed = seen[:, None]
        cache = _StepCache(past, allowed)
        logits = self.model(ids, positions, cache=cache)["logits"]
        return (logits, *cache.states)


def _positions(model: Any) -> Port:
    if model.config.family == "glm" and model.config.block_position_encoding:
        meaning = "positions in the text (first row) and inside of a blank (second row)"
        return Port("position_ids", "batch 2 sequence", meaning, ports.block_positions)
    return Port("position_ids", "batch sequence", "positions", ports.running)


def _past_mask(model: Any) -> Port:
    if model.config.family == "glm":
        return Port("attention_mask", "batch sequence total", "1 where a token attends to another", ports.visible)
    return Port("attention_mask", "batch total", "1 at tokens of past and present, 0 at padding", ports.past_mask)


# What is exported of each class.
GRAPHS: Mapping[str, Callable[[Any], Graph]] = {
    **{
        name: partial(BertGraph, outputs=outputs)
        for name, outputs in {
            "BertModel": {
                "hidden_states": _STATES,
                "pooled": Port("pooler_output", "batch width", "the state of the first token through the pooler"),
            },
            "BertForMaskLM": {"logits": Port("logits", "batch sequence vocab", "the scores of all tokens")},
            "BertForSeq2seq": {"logits": Port("logits", "batch sequence vocab", "the scores of the next token")},
            "BertForClsClassifier": {"logits": _CLASSES},
            "BertForSequenceLabeling": {"logits": _LABELS},
            "BertForSequenceLabelingCRF": {
                "logits": _LABELS,
                "transitions": Port("transitions", "classes classes", "the score of a label (row) before another"),
            },
            "BertForSequenceLabelingGP": {
                "logits": Port(
                    "logits",
                    "batch classes sequence sequence",
                    "the score of each span (first token, last token) for each type, above 0 for an entity",
                )
            },
        }.items()
    },
    "T5Model": T5Encoder,
    "GLMForSequenceClassification": GLMClassifier,
    "GLMModel": DecoderStep,
    "GLMForSeq2Seq": DecoderStep,
    "GPT2Model": DecoderStep,
}


def graph_of(model: BaseModel, folder: Path, task: str | None) -> Graph:
    """What is exported of a model for a task.

    Args:
        model: the model.
        folder: its folder, which says how sentences are embedded.
        task: the task, or ``ENCODER``; None for what the model's class does.

    Raises:
        ExportError: nothing can be exported; the message says why, and what can.
    """
    _, row = family_and_row(model)
    name, kind = type(model).__name__, "" if row is None else row.name
    if kind not in (*GRAPHS, "BertForEmbedding"):
        raise ExportError(f"A {name} cannot be exported. These can: {', '.join(GRAPHS)}; and sentence embeddings.")
    if model.sharding is not None:
        raise ExportError(f"This {name} is shared between processes. Load it without mesh= or fsdp= to export it.")
    if how_quantized(model) is not None:
        raise ExportError(
            f"This {name} has quantized weights ({how_quantized(model)}), which have no ONNX form here. Load the "
            "original weights; ONNX Runtime has tools of its own to quantize a graph."
        )
    if model.adapter_names and merged_adapter(model) is None:
        raise ExportError(
            f"This {name} has adapters beside its weights ({', '.join(model.adapter_names)}). Merge one: "
            "model.merge_adapter(name)."
        )
    missing = [parameter for parameter in untrained(model) if "prompt" not in parameter]
    if missing:
        raise ExportError(
            f"The head of this {name} is randomly initialized ({', '.join(missing)}): its answers would be chance. "
            "Export a model that was trained for the task (flagai finetune), or --task embedding."
        )
    if task == "embedding" or kind == "BertForEmbedding":
        return SentenceGraph(model, folder)
    if kind == "T5Model" and task != ENCODER:
        raise ExportError(f"Of a {name} only the encoder is exported. Choose the task encoder, or embedding.")
    if task == ENCODER and kind not in ("T5Model", "BertModel"):
        raise ExportError(f"A {name} has no encoder to export alone. Choose the task that it was trained for.")
    return GRAPHS[kind](model)
