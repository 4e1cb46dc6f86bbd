"""The published models, built on the meta device: names, shapes and sizes of their files."""

from typing import Any

import pytest
import torch

from flagai.checkpoint.names import TensorPart
from flagai.model.chatglm_model import ChatGLM2Model, ChatGLMModel

FIRST = {
    "model_type": "chatglm",
    "vocab_size": 130528,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "num_layers": 28,
    "num_attention_heads": 32,
    "max_sequence_length": 2048,
    "position_encoding_2d": True,
}
SECOND = {
    "model_type": "chatglm",
    "padded_vocab_size": 65024,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "num_layers": 28,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "add_bias_linear": False,
}
FOURTH = SECOND | {"padded_vocab_size": 151552, "num_layers": 40, "layernorm_epsilon": 1.5625e-07, "rope_ratio": 500}
GLM4 = {
    "model_type": "glm4",
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "head_dim": 128,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "attention_bias": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "tie_word_embeddings": False,
}


def layers(pattern: str, count: int, shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    return {pattern.format(i) + name: shape for i in range(count) for name, shape in shapes.items()}


def second(vocab: int, count: int) -> dict[str, list[int]]:
    h, f = 4096, 13696
    return {
        "transformer.embedding.word_embeddings.weight": [vocab, h],
        **layers(
            "transformer.encoder.layers.{}.",
            count,
            {
                "input_layernorm.weight": [h],
                "self_attention.query_key_value.weight": [4608, h],
                "self_attention.query_key_value.bias": [4608],
                "self_attention.dense.weight": [h, h],
                "post_attention_layernorm.weight": [h],
                "mlp.dense_h_to_4h.weight": [2 * f, h],
                "mlp.dense_4h_to_h.weight": [h, f],
            },
        ),
        "transformer.encoder.final_layernorm.weight": [h],
        "transformer.output_layer.weight": [vocab, h],
    }


FIRST_NAMES = {
    "transformer.word_embeddings.weight": [130528, 4096],
    **layers(
        "transformer.layers.{}.",
        28,
        {
            **{
                f"{norm}_layernorm.{leaf}": [4096]
                for norm in ("input", "post_attention")
                for leaf in ("weight", "bias")
            },
            "attention.query_key_value.weight": [12288, 4096],
            "attention.query_key_value.bias": [12288],
            "attention.dense.weight": [4096, 4096],
            "attention.dense.bias": [4096],
            "mlp.dense_h_to_4h.weight": [16384, 4096],
            "mlp.dense_h_to_4h.bias": [16384],
            "mlp.dense_4h_to_h.weight": [4096, 16384],
            "mlp.dense_4h_to_h.bias": [4096],
        },
    ),
    "transformer.final_layernorm.weight": [4096],
    "transformer.final_layernorm.bias": [4096],
    "lm_head.weight": [130528, 4096],
}
GLM4_NAMES = {
    "model.embed_tokens.weight": [151552, 4096],
    **layers(
        "model.layers.{}.",
        40,
        {
            "input_layernorm.weight": [4096],
            "self_attn.q_proj.weight": [4096, 4096],
            "self_attn.k_proj.weight": [256, 4096],
            "self_attn.v_proj.weight": [256, 4096],
            "self_attn.o_proj.weight": [4096, 4096],
            "post_self_attn_layernorm.weight": [4096],
            "post_attention_layernorm.weight": [4096],
            "mlp.gate_up_proj.weight": [27392, 4096],
            "mlp.down_proj.weight": [4096, 13696],
            "post_mlp_layernorm.weight": [4096],
        },
    ),
    "model.norm.weight": [4096],
    "lm_head.weight": [151552, 4096],
}
# Class, configuration, layout, names and shapes, bytes in float16 without buffers of frequencies. The index of
# ChatGLM-6B says 13,744,473,856: with the 20,000 tokens that its files no longer have, and norms in float32.
PUBLISHED: dict[str, tuple[Any, dict[str, Any], str, dict[str, list[int]], int]] = {
    "ChatGLM-6B": (
        ChatGLMModel,
        FIRST,
        "flagai",
        FIRST_NAMES,
        13_744_473_856 - 28 * 32 * 2 - 114 * 4096 * 2 - 2 * 20_000 * 4096 * 2,
    ),
    "ChatGLM2-6B, ChatGLM3-6B": (ChatGLM2Model, SECOND, "flagai", second(65024, 28), 12_487_168_064 - 32 * 2),
    "glm-4-9b": (ChatGLM2Model, FOURTH, "flagai", second(151552, 40), 18_799_902_720),
    "GLM-4-9B-0414": (ChatGLM2Model, GLM4, "huggingface", GLM4_NAMES, 18_800_189_440),
}


def shape_of(sources: list[tuple[TensorPart, torch.Tensor]]) -> list[int]:
    """The shape of a tensor of a file that is made of parts."""
    first = sources[0][1].shape
    return [sum(len(tensor) for _, tensor in sources), *first[1:]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes(name: str) -> None:
    cls, content, layout, wanted, size = PUBLISHED[name]
    model = cls.on_meta(cls.config_class.from_dict(content), torch.float16)
    plan = model.save_plan(layout)
    assert {theirs: shape_of(sources) for theirs, sources in plan.items()} == wanted
    assert sum(tensor.nbytes for sources in plan.values() for _, tensor in sources) == size


def test_the_settings_of_the_generations() -> None:
    fourth = ChatGLM2Model.config_class.from_dict(FOURTH)
    assert (fourth.rope_theta, fourth.num_key_value_heads, fourth.rms_norm_eps) == (5e6, 2, 1.5625e-07)
    assert ChatGLM2Model.config_class.from_dict(GLM4).sandwich_norm
    stretched = SECOND | {"rope_ratio": 4, "_name_or_path": "THUDM/chatglm2-6b-32k"}
    assert ChatGLM2Model.config_class.from_dict(stretched).rope_interpolation == 4
