"""A tiny random model of every class, and a batch for it; sizes are odd on purpose."""

from typing import Any

import torch

from flagai.model import bert_model, chatglm2_model, chatglm_model, glm_model, gpt2_model, t5_model

CLASSES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        bert_model.BertModel,
        bert_model.BertForEmbedding,
        bert_model.BertForMaskLM,
        bert_model.BertForSeq2seq,
        bert_model.BertForClsClassifier,
        bert_model.BertForSequenceLabeling,
        bert_model.BertForSequenceLabelingCRF,
        bert_model.BertForSequenceLabelingGP,
        glm_model.GLMModel,
        glm_model.GLMForSeq2Seq,
        glm_model.GLMForSingleTokenCloze,
        glm_model.GLMForMultiTokenCloze,
        glm_model.GLMForMultiTokenClozeFast,
        glm_model.GLMForSequenceClassification,
        gpt2_model.GPT2Model,
        t5_model.T5Model,
        chatglm_model.ChatGLMModel,
        chatglm2_model.ChatGLM2Model,
        chatglm2_model.ChatGLM2ForSequenceClassification,
    )
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {
        "model_type": "bert",
        "vocab_size": 31,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "max_position_embeddings": 40,
        "class_num": 4,
        "inner_dim": 6,
    },
    "glm": {
        "num_layers": 2,
        "vocab_size": 37,
        "hidden_size": 12,
        "num_attention_heads": 3,
        "max_sequence_length": 32,
        "spell_length": 2,
        "class_num": 4,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 37,
        "n_embd": 12,
        "n_layer": 2,
        "n_head": 3,
        "n_positions": 40,
        "n_inner": 20,
    },
    "t5": {
        "model_type": "t5",
        "vocab_size": 41,
        "d_model": 12,
        "d_kv": 5,
        "d_ff": 20,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 2,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        "decoder_start_token_id": 0,
    },
}
CONFIGS["chatglm"] = {
    "model_type": "chatglm",
    "vocab_size": 41,
    "hidden_size": 16,
    "inner_hidden_size": 20,
    "num_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": 38,
    "mask_token_id": 35,
    "gmask_token_id": 36,
}
CONFIGS["chatglm2"] = {
    "model_type": "chatglm",
    "padded_vocab_size": 41,
    "hidden_size": 12,
    "ffn_hidden_size": 20,
    "num_layers": 2,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "kv_channels": 8,
    "class_num": 4,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
# Further shapes of a class: they have other parameters.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("BertForMaskLM", {"tie_word_embeddings": False}),
    ("GLMModel", {"block_position_encoding": False, "spell_length": None}),
    ("GLMModel", {"spell_func": "mlp"}),
    ("GLMModel", {"spell_func": "none"}),
    ("GPT2Model", {"do_layer_norm_before": False, "tie_word_embeddings": False}),
    ("T5Model", GATED),
    ("ChatGLMModel", {"gated": True, "position_encoding_2d": False, "tie_word_embeddings": False}),
    ("ChatGLMModel", {"pre_seq_len": 3, "prefix_projection": True}),
    ("ChatGLM2Model", {"pre_seq_len": 3}),
    ("ChatGLM2Model", {"multi_query_attention": False, "attention_bias": False, "tie_word_embeddings": True}),
    ("ChatGLM2Model", {"model_type": "glm4"}),
]
EVERY: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in CLASSES), *VARIANTS]


def label(value: Any) -> str | None:
    """The name of a test's parameter: of an entry of EVERY or of a configuration's changes."""
    return ",".join(f"{key}={setting}" for key, setting in value.items()) if isinstance(value, dict) else None


def config(name: str, **changes: Any) -> Any:
    """The tiny configuration of a class."""
    cls = CLASSES[name].config_class
    return cls.from_dict(CONFIGS[cls.family] | changes)


def build(name: str, seed: int = 0, **changes: Any) -> Any:
    """A tiny model in evaluation mode; no parameter has a value that hides a mistake, such as 0 or 1."""
    torch.manual_seed(seed)
    model = CLASSES[name](config(name, **changes)).eval()
    return randomised(model)


@torch.no_grad()
def randomised(model: Any, std: float = 0.1) -> Any:
    """Shift every parameter by a random value."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=std)
    return model


def ids(vocab: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Token ids that are not padding."""
    return torch.randint(1, vocab, shape, generator=torch.Generator().manual_seed(seed))


def batch(name: str, **changes: Any) -> dict[str, torch.Tensor]:
    """Arguments of ``forward`` for a model built with these changes, with labels where the class knows a loss."""
    arguments: dict[str, torch.Tensor] = _BATCHES.get(name, _BATCHES[CLASSES[name].config_class.family])()
    if changes.get("block_position_encoding") is False:
        arguments["position_ids"] = arguments["position_ids"][:, 0]
    if "spell_length" in changes and not changes["spell_length"]:
        del arguments["prompt_pos"]
    return arguments


def _bert(**labels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = ids(31, 3, 7)
    tokens[1, 5:] = 0
    return {"input_ids": tokens, "token_type_ids": (torch.arange(7) > 2).long().expand(3, 7), **labels}


def _glm(**labels: torch.Tensor) -> dict[str, torch.Tensor]:
    positions = torch.stack([torch.arange(7).clamp(max=4), (torch.arange(7) - 4).clamp(min=0)])
    return {
        "input_ids": ids(37, 3, 7),
        "position_ids": positions.expand(3, 2, 7),
        "attention_mask": torch.tensor([5, 4, 5]),
        "prompt_pos": torch.tensor([[1, 2], [0, 3], [2, 1]]),
        **labels,
    }


def _choices(**labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The three rows of ``_glm``, and the same again as second choices."""
    rows = _glm(labels=torch.tensor([1, 0, 1]))
    both = {key: torch.stack([rows[key], rows[key].flip(0)], dim=1) for key in ("input_ids", "position_ids")}
    return {**both, "attention_mask": torch.tensor([[5, 5], [4, 4], [5, 5]]), "labels": rows["labels"], **labels}


def _text_and_choices() -> dict[str, torch.Tensor]:
    rows = _glm()
    positions = torch.stack([torch.tensor([2, 2]), torch.tensor([1, 2])])
    return {
        **{key: rows[key] for key in ("input_ids", "position_ids", "attention_mask")},
        "dec_input_ids": ids(37, 3, 2, 2, seed=1),
        "dec_position_ids": positions.expand(3, 2, 2, 2),
        "dec_attention_mask": rows["attention_mask"][:, None].expand(3, 2),
        "target_ids": ids(37, 3, 2, 2, seed=2),
        "logit_mask": torch.tensor([[[1, 1], [1, 0]]]).expand(3, 2, 2),
        "labels": torch.tensor([1, 0, 1]),
    }


def _spans() -> torch.Tensor:
    labels = torch.zeros(3, 4, 7, 7)
    labels[0, 1, 2, 4] = labels[2, 3, 0, 0] = 1
    return labels


_BATCHES: dict[str, Any] = {
    "bert": _bert,
    "glm": lambda: _glm(labels=ids(37, 3, 7, seed=1)),
    "gpt2": lambda: {"input_ids": ids(37, 3, 7), "labels": ids(37, 3, 7)},
    "t5": lambda: {
        "input_ids": ids(41, 3, 7),
        "attention_mask": (torch.arange(7) < torch.tensor([[7], [4], [6]])).long(),
        "labels": ids(41, 3, 5, seed=1),
    },
    "chatglm": lambda: {
        "input_ids": torch.cat([ids(34, 3, 4), torch.tensor([36, 38]).expand(3, 2), ids(34, 3, 2, seed=1)], 1),
        "labels": ids(34, 3, 8, seed=1),
    },
    "chatglm2": lambda: {
        "input_ids": ids(41, 3, 7),
        "attention_mask": (torch.arange(7) >= torch.tensor([[0], [3], [1]])).long(),
        "labels": ids(41, 3, 7, seed=1),
    },
    "ChatGLM2ForSequenceClassification": lambda: {"input_ids": ids(41, 3, 7), "labels": torch.tensor([0, 3, 1])},
    "BertForMaskLM": lambda: _bert(labels=ids(31, 3, 7, seed=1)),
    "BertForSeq2seq": lambda: _bert(labels=_bert()["input_ids"][:, 1:]),
    "BertForClsClassifier": lambda: _bert(labels=torch.tensor([0, 3, 1])),
    "BertForSequenceLabeling": lambda: _bert(labels=ids(4, 3, 7, seed=1)),
    "BertForSequenceLabelingCRF": lambda: _bert(labels=ids(4, 3, 7, seed=1)),
    "BertForSequenceLabelingGP": lambda: _bert(labels=_spans()),
    "GLMForSeq2Seq": lambda: _glm(target_ids=ids(37, 3, 7, seed=1), loss_mask=(torch.arange(7) > 3).expand(3, 7)),
    "GLMForSingleTokenCloze": lambda: _glm(target_ids=ids(37, 3, 2, seed=1), labels=torch.tensor([1, 0, 1])),
    "GLMForMultiTokenCloze": lambda: _choices(
        target_ids=ids(37, 3, 2, 7, seed=1), logit_mask=(torch.arange(7) > 4).expand(3, 2, 7)
    ),
    "GLMForMultiTokenClozeFast": _text_and_choices,
    "GLMForSequenceClassification": lambda: _glm(labels=torch.tensor([0, 3, 1])),
}
