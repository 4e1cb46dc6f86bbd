"""Folders that transformers writes, drawn at random: every documented key of config.json varied, its text edited."""

import json
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from flagai.errors import FlagAIError
from flagai.model.bert_model import BertForClsClassifier, BertForMaskLM, BertForSequenceLabeling, BertModel
from flagai.model.gpt2_model import GPT2Model
from flagai.model.t5_model import T5Model
from tests import tiny

SEQUENCE = 12
_ACTIVATIONS = [
    "gelu", "gelu_new", "relu", "silu", "swish", "gelu_fast", "gelu_pytorch_tanh", "tanh", "gelu_python",
    "gelu_accurate", "quick_gelu", "mish", "linear", "sigmoid", "relu2", "leaky_relu", "gelu_10",
]  # fmt: skip
_RATES = [0.0, 0.3, 0]
COMMON: dict[str, list[Any]] = {
    "chunk_size_feed_forward": [0, 3],
    "output_hidden_states": [True, None],
    "output_attentions": [True],
    "return_dict": [False],
    "dtype": ["float32", None],
    "is_encoder_decoder": [True, False],
    "architectures": [None, ["BertModel"], ["Unheard"]],
    "transformers_version": ["2.1.0"],
    "use_cache": [False],
    "id2label": [{0: "O", 1: "B-X", 2: "I-X"}, {0: "score"}],
    "label2id": [{"O": 0}],
    "num_labels": [1, 2, 3],
    "problem_type": ["regression", "multi_label_classification", "single_label_classification"],
    "bos_token_id": [None, 0, 2, 50256],
    "eos_token_id": [None, 2, [2, 3], 50256],
    "pad_token_id": [0, 1, 3, None],
    "tie_word_embeddings": [True, False],
    "initializer_range": [0.5],
}
_BERT: dict[str, list[Any]] = {
    "vocab_size": [31, 50],
    "hidden_size": [12, 24],
    "num_hidden_layers": [1, 2, 3],
    "num_attention_heads": [1, 2, 3, 6],
    "intermediate_size": [20, 48],
    "hidden_act": _ACTIVATIONS,
    "hidden_dropout_prob": _RATES,
    "attention_probs_dropout_prob": _RATES,
    "classifier_dropout": [None, *_RATES],
    "max_position_embeddings": [20, 40],
    "type_vocab_size": [1, 2, 3],
    "layer_norm_eps": [1e-12, 1e-5, 0.1],
    "is_decoder": [True, False],
    "add_cross_attention": [True, False],
}
_GPT2: dict[str, list[Any]] = {
    "vocab_size": [31, 50],
    "n_positions": [20, 40],
    "n_embd": [12, 24],
    "n_layer": [1, 2, 3],
    "n_head": [1, 2, 3, 6],
    "n_inner": [None, 20],
    "activation_function": _ACTIVATIONS,
    "resid_pdrop": _RATES,
    "embd_pdrop": _RATES,
    "attn_pdrop": _RATES,
    "layer_norm_epsilon": [1e-5, 0.1],
    "summary_type": ["mean", "attn"],
    "summary_use_proj": [False],
    "summary_activation": ["tanh"],
    "summary_proj_to_labels": [False],
    "summary_first_dropout": _RATES,
    "scale_attn_weights": [True, False],
    "scale_attn_by_inverse_layer_idx": [True, False],
    "reorder_and_upcast_attn": [True, False],
    "add_cross_attention": [True, False],
}
_T5: dict[str, list[Any]] = {
    "vocab_size": [41, 50],
    "d_model": [12, 24],
    "d_kv": [5, 8],
    "d_ff": [20, 48],
    "num_layers": [1, 2, 3],
    "num_decoder_layers": [None, 1, 3],
    "num_heads": [1, 3, 4],
    "relative_attention_num_buckets": [2, 4, 6, 7, 32],
    "relative_attention_max_distance": [3, 8, 20, 128],
    "dropout_rate": _RATES,
    "classifier_dropout": _RATES,
    "layer_norm_epsilon": [1e-6, 0.1],
    "initializer_factor": [0.5],
    "feed_forward_proj": [f"{gate}{name}" for name in _ACTIVATIONS for gate in ("", "gated-")],
    "dense_act_fn": _ACTIVATIONS,
    "is_gated_act": [True, False],
    "is_decoder": [True, False],
    "decoder_start_token_id": [0, 3, None],
    "scale_decoder_outputs": [True, False],
}
# What tools and people write into a file: wrong types, other spellings, keys of other years.
_ODD: list[Any] = [
    None,
    "x",
    "",
    0,
    1,
    -1,
    2,
    3.0,
    "3",
    0.5,
    "1e-5",
    True,
    False,
    [],
    [1],
    {},
    {"a": 1},
    10**12,
    "gelu",
]
_FOREIGN: dict[str, list[Any]] = {
    "position_embedding_type": ["absolute", "relative_key", None],
    "pruned_heads": [{}, {"0": [0]}],
    "quantization_config": [None, {"load_in_8bit": True}],
    "per_layer_config": [None, {"0": {"hidden_act": "relu"}}],
    "hidden_size": [12, 24],
    "n_embd": [24],
    "max_position_embeddings": [20],
    "n_ctx": [20],
    "head_dim": [5],
    "task_specific_params": [{"a": 1}],
    "model_type": ["bert", "BERT", "roberta", "gpt2", "t5", "mt5", None, 3],
    "layernorm_epsilon": [None],
    "torch_dtype": ["float32", None],
    "num_hidden_layers": [1, 2],
    "_name_or_path": ["x"],
}


@dataclass(frozen=True)
class Family:
    """What is drawn for one class of transformers."""

    theirs: Any
    ours: Any
    base: dict[str, Any]
    keys: dict[str, list[Any]]


_BERT_BASE = {
    "vocab_size": 31,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 40,
}
_ROBERTA_BASE = _BERT_BASE | {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_GPT2_BASE = {"vocab_size": 31, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 40, "eos_token_id": 2}
_T5_BASE = {"vocab_size": 41, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 3}
FAMILIES = [
    Family(transformers.BertModel, BertModel, _BERT_BASE, _BERT),
    Family(transformers.BertForMaskedLM, BertForMaskLM, _BERT_BASE, _BERT),
    Family(transformers.BertForSequenceClassification, BertForClsClassifier, _BERT_BASE, _BERT),
    Family(transformers.BertForTokenClassification, BertForSequenceLabeling, _BERT_BASE, _BERT),
    Family(transformers.RobertaModel, BertModel, _ROBERTA_BASE, _BERT),
    Family(transformers.RobertaForMaskedLM, BertForMaskLM, _ROBERTA_BASE, _BERT),
    Family(transformers.RobertaForSequenceClassification, BertForClsClassifier, _ROBERTA_BASE, _BERT),
    Family(transformers.RobertaForTokenClassification, BertForSequenceLabeling, _ROBERTA_BASE, _BERT),
    Family(transformers.GPT2LMHeadModel, GPT2Model, _GPT2_BASE, _GPT2),
    Family(transformers.T5ForConditionalGeneration, T5Model, _T5_BASE, _T5),
    Family(transformers.MT5ForConditionalGeneration, T5Model, _T5_BASE | {"feed_forward_proj": "gated-gelu"}, _T5),
]


def compare(seed: int, folder: Path) -> tuple[str, str]:
    """Draw a variant, write it with transformers, read it with both.

    Returns:
        What happened: "equal", "refused" by ours, "theirs fails", "different" or "raw error"; and what was drawn.
    """
    chance = random.Random(seed)
    family = chance.choice(FAMILIES)
    keys = {**COMMON, **family.keys}
    drawn = {name: chance.choice(keys[name]) for name in chance.sample(sorted(keys), chance.choice([0, 1, 1, 2, 3, 4]))}
    what = f"{seed} {family.theirs.__name__} {drawn}"
    try:
        torch.manual_seed(seed)
        made = family.theirs(family.theirs.config_class(**{**family.base, **drawn}))
        tiny.randomised(made, std=0.2)
        if (
            isinstance(made, transformers.T5ForConditionalGeneration) and chance.random() < 0.3
        ):  # as published v1.1 and mT5
            made.lm_head.weight = nn.Parameter(torch.randn_like(made.lm_head.weight))
            made.config.tie_word_embeddings = False
        made.save_pretrained(folder)
    except Exception as error:  # noqa: BLE001 - transformers raises whatever it likes
        return "theirs fails", f"{what}: {error}"
    what += f" edited {_edit(folder / 'config.json', chance, {**keys, **_FOREIGN})}"
    wanted = _theirs(family, folder)
    try:
        found = _run(family.ours.from_pretrained(folder), family)
    except FlagAIError as error:
        return "refused", f"{what}: {error}"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return "raw error", f"{what}: {type(error).__name__}: {error}"
    if isinstance(wanted, str):
        return "theirs fails", f"{what}: {wanted}"
    same = found.shape == wanted.shape and torch.allclose(found, wanted, atol=2e-4, rtol=1e-3, equal_nan=True)
    return ("equal" if same else "different"), what


def _edit(path: Path, chance: random.Random, keys: dict[str, list[Any]]) -> dict[str, Any]:
    """Change up to two entries of a configuration; some to what no key should hold."""
    content = json.loads(path.read_text())
    edits = {}
    for name in chance.sample(sorted({*content, *keys}), chance.choice([0, 0, 1, 1, 2])):
        edits[name] = chance.choice(["absent", chance.choice(_ODD), chance.choice(keys.get(name, _ODD))])
    if edits.get("layernorm_epsilon") != "absent":
        edits.pop("layernorm_epsilon", None)  # FlagAI's name: it counts here, with a warning, and not in transformers
    content.update(edits)
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "absent"}))
    return edits


def _theirs(family: Family, folder: Path) -> torch.Tensor | str:
    """Their output, or why there is none: weights that they drew anew are not compared."""
    try:
        model, info = family.theirs.from_pretrained(folder, output_loading_info=True)
        lacking = [name for name in info["missing_keys"] if "pooler" not in name]
        odd = [*lacking, *info["mismatched_keys"]]
        return f"randomly initialized: {odd}" if odd else _run(model.eval(), family)
    except Exception as error:  # noqa: BLE001 - transformers raises whatever it likes
        return f"{type(error).__name__}: {error}"


@torch.no_grad()
def _run(model: Any, family: Family) -> torch.Tensor:
    """Logits (or last states) of real tokens in two rows, one of them padded."""
    ids = tiny.ids(25, 2, SEQUENCE, seed=3) + 4
    real = torch.arange(SEQUENCE) < torch.tensor([[SEQUENCE], [SEQUENCE - 4]])
    arguments = {"input_ids": ids.masked_fill(~real, 1 if "Roberta" in family.theirs.__name__ else 0)}
    arguments["attention_mask"] = real.long()
    if family.ours is T5Model:
        arguments["decoder_input_ids"] = ids[:, : SEQUENCE - 2]
    output = model(**arguments) if isinstance(model, family.ours) else model(**arguments, return_dict=True)
    output = {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
    found = output.get("logits", output.get("last_hidden_state"))
    assert found is not None
    return found if family.ours in (T5Model, BertForClsClassifier) else found[real]


@contextmanager
def silent() -> Iterator[None]:
    """Keep both libraries' logs out of two thousand loads."""
    theirs, ours = transformers.logging.get_verbosity(), logging.getLogger("flagai").level
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("flagai").setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers.logging.set_verbosity(theirs)
        transformers.logging.enable_progress_bar()
        logging.getLogger("flagai").setLevel(ours)
