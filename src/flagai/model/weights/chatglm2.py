"""ChatGLM2 to GLM-4-0414: where the files keep the parameters, and how model-parallel ranks cut them.

The layout "flagai" has the original's names (``model_type: chatglm``), "huggingface" those of transformers' ``glm`` and
``glm4``. The original format has no second norms; they stand beside the others.

Source: state dicts of ChatGLM2-6B, ChatGLM3-6B, glm-4-9b, and of transformers' GlmForCausalLM and Glm4ForCausalLM.
"""

from functools import cache

from flagai.checkpoint.names import NameMap, NameRow, row
from flagai.parallel.plan import blocks

_LAYER, _FUSED = "encoder.layers.{i}.", "encoder.layers.{i}.self_attention.query_key_value.{p}"
_THEIRS, _OURS = ("huggingface",), ("flagai",)


@cache
def names(heads: int, groups: int, head_dim: int, by_head: bool = False) -> NameMap:
    """The names of a model.

    Args:
        heads: number of heads of queries.
        groups: number of heads of keys and values.
        head_dim: size of a head.
        by_head: whether a fused matrix has query, key and value of the first head, then of the second, ..., as where
            `multi_query_attention` is false.
    """
    shares = () if by_head else (heads, groups, groups)
    interleaved = head_dim if by_head else 0

    def fused(number: int, letter: str) -> NameRow:
        ours = f"blocks.{{i}}.attention.{letter}.{{p}}"
        return row(ours, _FUSED, part=(number, 3), shares=shares, interleaved=interleaved, only=_OURS)

    return NameMap(
        rows=(*(fused(number, letter) for number, letter in enumerate("qkv")), *_ROWS),
        prefixes=("module.", "model.", "transformer.", "text_model."),
        renames=(("weight_scale", "weight.scale"),),
        ignored=("rotary_pos_emb.inv_freq", "prefix_encoder.{*}", "vision.{*}"),
    )


_ROWS = (
    row("embed.token.weight", "embedding.word_embeddings.weight", only=_OURS),
    row("blocks.{i}.norm1.weight", _LAYER + "input_layernorm.weight", only=_OURS),
    row("blocks.{i}.norm1_out.weight", _LAYER + "post_self_attn_layernorm.weight", only=_OURS),
    row("blocks.{i}.attention.out.{p}", _LAYER + "self_attention.dense.{p}", only=_OURS),
    row("blocks.{i}.norm2.weight", _LAYER + "post_attention_layernorm.weight", only=_OURS),
    row("blocks.{i}.norm2_out.weight", _LAYER + "post_mlp_layernorm.weight", only=_OURS),
    row("blocks.{i}.feed_forward.gate.{p}", _LAYER + "mlp.dense_h_to_4h.{p}", part=(0, 2), only=_OURS),
    row("blocks.{i}.feed_forward.value.{p}", _LAYER + "mlp.dense_h_to_4h.{p}", part=(1, 2), only=_OURS),
    row("blocks.{i}.feed_forward.down.{p}", _LAYER + "mlp.dense_4h_to_h.{p}", only=_OURS),
    row("norm.weight", "encoder.final_layernorm.weight", only=_OURS),
    row("head.weight", "output_layer.weight", only=_OURS),
    row("prefix.{*}", "prefix_encoder.{*}", only=_OURS),
    row("classifier.{p}", "classifier_head.{p}", only=_OURS, head=True),
    row("embed.token.weight", "embed_tokens.weight", only=_THEIRS),
    row("blocks.{i}.norm1.weight", "layers.{i}.input_layernorm.weight", only=_THEIRS),
    row("blocks.{i}.norm1_out.weight", "layers.{i}.post_self_attn_layernorm.weight", only=_THEIRS),
    row("blocks.{i}.attention.q.{p}", "layers.{i}.self_attn.q_proj.{p}", only=_THEIRS),
    row("blocks.{i}.attention.k.{p}", "layers.{i}.self_attn.k_proj.{p}", only=_THEIRS),
    row("blocks.{i}.attention.v.{p}", "layers.{i}.self_attn.v_proj.{p}", only=_THEIRS),
    row("blocks.{i}.attention.out.{p}", "layers.{i}.self_attn.o_proj.{p}", only=_THEIRS),
    row("blocks.{i}.norm2.weight", "layers.{i}.post_attention_layernorm.weight", only=_THEIRS),
    row("blocks.{i}.norm2_out.weight", "layers.{i}.post_mlp_layernorm.weight", only=_THEIRS),
    row("blocks.{i}.feed_forward.gate.{p}", "layers.{i}.mlp.gate_up_proj.{p}", part=(0, 2), only=_THEIRS),
    row("blocks.{i}.feed_forward.value.{p}", "layers.{i}.mlp.gate_up_proj.{p}", part=(1, 2), only=_THEIRS),
    row("blocks.{i}.feed_forward.down.{p}", "layers.{i}.mlp.down_proj.{p}", only=_THEIRS),
    row("norm.weight", "norm.weight", only=_THEIRS),
    row("head.weight", "lm_head.weight", only=_THEIRS, head=True),
    row("classifier.{p}", "score.{p}", only=_THEIRS, head=True),
)
# For questions about names alone; a model has the names of its own sizes.
NAMES = names(32, 2, 128)

PLAN = {
    "embed.token": "vocab",
    "blocks.*.attention.[kv]": "group",
    **blocks(),
    "norm": "copy",
    "head": "vocab",
    "prefix.*": "copy",
    "classifier": "copy",
}
