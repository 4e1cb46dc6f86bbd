"""GLM: where the files keep the parameters, and how model-parallel ranks cut them.

Source: state dicts of the original (FORMATS of THUDM/GLM and FlagAI; both use the same names). The Hugging Face
repositories store them with or without the prefix ``glm.``, DeepSpeed's files inside ``module``.
"""

from flagai.checkpoint.names import NameMap, row
from flagai.parallel.plan import blocks

_SAT = ("sat",)  # SwissArmyTransformer's names: read, not written
NAMES = NameMap(
    rows=(
        row("embed.token.weight", "word_embeddings.weight"),
        row("embed.token.weight", "transformer.word_embeddings.weight", only=_SAT),
        row("embed.position.weight", "transformer.position_embeddings.weight"),
        row("embed.block_position.weight", "transformer.block_position_embeddings.weight"),
        row(
            "embed.block_position.weight",
            "mixins.block_position_embedding.block_position_embeddings.weight",
            only=_SAT,
        ),
        row("blocks.{i}.norm1.{p}", "transformer.layers.{i}.input_layernorm.{p}"),
        row("blocks.{i}.attention.q.{p}", "transformer.layers.{i}.attention.query_key_value.{p}", part=(0, 3)),
        row("blocks.{i}.attention.k.{p}", "transformer.layers.{i}.attention.query_key_value.{p}", part=(1, 3)),
        row("blocks.{i}.attention.v.{p}", "transformer.layers.{i}.attention.query_key_value.{p}", part=(2, 3)),
        row("blocks.{i}.attention.out.{p}", "transformer.layers.{i}.attention.dense.{p}"),
        row("blocks.{i}.norm2.{p}", "transformer.layers.{i}.post_attention_layernorm.{p}"),
        row("blocks.{i}.feed_forward.up.{p}", "transformer.layers.{i}.mlp.dense_h_to_4h.{p}"),
        row("blocks.{i}.feed_forward.down.{p}", "transformer.layers.{i}.mlp.dense_4h_to_h.{p}"),
        row("norm.{p}", "transformer.final_layernorm.{p}"),
        row("prompt.{*}", "prompt_spell.{*}"),
        row("pool.dense.{p}", "pool_layer.{p}", head=True),
        row("classifier.{p}", "multichoice_head.{p}", head=True),
    ),
    prefixes=("module.", "model.", "glm."),
    # An untrained classification head of another shape, in THUDM's GLM-2B.
    ignored=("dense.{p}", "out_proj.{p}"),
)

PLAN = {
    "embed.token": "vocab",
    "embed.*": "copy",
    **blocks(),
    "norm": "copy",
    "prompt.*": "copy",
    "pool.dense": "copy",
    "classifier": "copy",
}
