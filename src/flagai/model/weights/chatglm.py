"""ChatGLM-6B and GLM-130B: where the files keep the parameters, and how model-parallel ranks cut them.

Source: state dicts of ChatGLM-6B and of GLM-130B (in eight parts, ``mp_rank_0X_model_states.pt``).
"""

from functools import cache

from flagai.checkpoint.names import NameMap, NameRow, row
from flagai.parallel.plan import blocks

_LAYER = "layers.{i}."


@cache
def names(head_dim: int, gated: bool = False) -> NameMap:
    """The names of a model.

    Args:
        head_dim: size of a head; a fused matrix has query, key and value of the first head, then of the second, ...
        gated: whether the feed-forward layers are GLM-130B's, whose second half is activated.
    """

    def fused(number: int, letter: str) -> NameRow:
        theirs = _LAYER + "attention.query_key_value.{p}"
        return row(f"blocks.{{i}}.attention.{letter}.{{p}}", theirs, part=(number, 3), interleaved=head_dim)

    up = [row("blocks.{i}.feed_forward.up.{p}", _LAYER + "mlp.dense_h_to_4h.{p}")]
    if gated:
        halves = enumerate(("value", "gate"))
        theirs = _LAYER + "mlp.dense_h_to_4h.{p}"
        up = [row(f"blocks.{{i}}.feed_forward.{name}.{{p}}", theirs, part=(number, 2)) for number, name in halves]
    return NameMap(
        rows=(*(fused(number, letter) for number, letter in enumerate("qkv")), *up, *_ROWS),
        prefixes=("module.", "model.", "transformer."),
        renames=(("weight_scale", "weight.scale"),),
        ignored=(_LAYER + "attention.rotary_emb.inv_freq", "prefix_encoder.{*}", "image_encoder.{*}"),
    )


_ROWS = (
    row("embed.token.weight", "word_embeddings.weight"),
    row("blocks.{i}.norm1.{p}", _LAYER + "input_layernorm.{p}"),
    row("blocks.{i}.attention.out.{p}", _LAYER + "attention.dense.{p}"),
    row("blocks.{i}.norm2.{p}", _LAYER + "post_attention_layernorm.{p}"),
    row("blocks.{i}.feed_forward.down.{p}", _LAYER + "mlp.dense_4h_to_h.{p}"),
    row("norm.{p}", "final_layernorm.{p}"),
    row("head.weight", "lm_head.weight", head=True),
    row("prefix.{*}", "prefix_encoder.{*}"),
)
NAMES = names(128)

PLAN = {
    "embed.token": "vocab",
    **blocks(),
    "norm": "copy",
    "head": "vocab",
    "prefix.*": "copy",
}
