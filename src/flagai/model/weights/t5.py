"""T5 and mT5: where the files keep the parameters, and how model-parallel ranks cut them.

FlagAI's files repeat the shared embeddings for the encoder, the decoder and the head; Hugging Face's
safetensors hold them once. The bias table of the first block serves all blocks. The t5-* repositories carry a
bias table for cross attention that no model uses.
"""

from flagai.checkpoint.names import NameMap, row
from flagai.parallel.plan import blocks

_FLAGAI = ("flagai",)
_ENCODER = "encoder.block.{i}.layer."
_DECODER = "decoder.block.{i}.layer."

NAMES = NameMap(
    rows=(
        row("embed.token.weight", "shared.weight"),
        row("embed.token.weight", "encoder.embed_tokens.weight", only=_FLAGAI),
        row("embed.token.weight", "decoder.embed_tokens.weight", only=_FLAGAI),
        row("encoder.bias.table.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        row("encoder.blocks.{i}.norm1.weight", _ENCODER + "0.layer_norm.weight"),
        row("encoder.blocks.{i}.attention.q.weight", _ENCODER + "0.SelfAttention.q.weight"),
        row("encoder.blocks.{i}.attention.k.weight", _ENCODER + "0.SelfAttention.k.weight"),
        row("encoder.blocks.{i}.attention.v.weight", _ENCODER + "0.SelfAttention.v.weight"),
        row("encoder.blocks.{i}.attention.out.weight", _ENCODER + "0.SelfAttention.o.weight"),
        row("encoder.blocks.{i}.norm2.weight", _ENCODER + "1.layer_norm.weight"),
        row("encoder.blocks.{i}.feed_forward.up.weight", _ENCODER + "1.DenseReluDense.wi.weight"),
        row("encoder.blocks.{i}.feed_forward.gate.weight", _ENCODER + "1.DenseReluDense.wi_0.weight"),
        row("encoder.blocks.{i}.feed_forward.value.weight", _ENCODER + "1.DenseReluDense.wi_1.weight"),
        row("encoder.blocks.{i}.feed_forward.down.weight", _ENCODER + "1.DenseReluDense.wo.weight"),
        row("encoder.norm.weight", "encoder.final_layer_norm.weight"),
        row("decoder.bias.table.weight", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        row("decoder.blocks.{i}.norm1.weight", _DECODER + "0.layer_norm.weight"),
        row("decoder.blocks.{i}.attention.q.weight", _DECODER + "0.SelfAttention.q.weight"),
        row("decoder.blocks.{i}.attention.k.weight", _DECODER + "0.SelfAttention.k.weight"),
        row("decoder.blocks.{i}.attention.v.weight", _DECODER + "0.SelfAttention.v.weight"),
        row("decoder.blocks.{i}.attention.out.weight", _DECODER + "0.SelfAttention.o.weight"),
        row("decoder.blocks.{i}.norm_cross.weight", _DECODER + "1.layer_norm.weight"),
        row("decoder.blocks.{i}.cross_attention.q.weight", _DECODER + "1.EncDecAttention.q.weight"),
        row("decoder.blocks.{i}.cross_attention.k.weight", _DECODER + "1.EncDecAttention.k.weight"),
        row("decoder.blocks.{i}.cross_attention.v.weight", _DECODER + "1.EncDecAttention.v.weight"),
        row("decoder.blocks.{i}.cross_attention.out.weight", _DECODER + "1.EncDecAttention.o.weight"),
        row("decoder.blocks.{i}.norm2.weight", _DECODER + "2.layer_norm.weight"),
        row("decoder.blocks.{i}.feed_forward.up.weight", _DECODER + "2.DenseReluDense.wi.weight"),
        row("decoder.blocks.{i}.feed_forward.gate.weight", _DECODER + "2.DenseReluDense.wi_0.weight"),
        row("decoder.blocks.{i}.feed_forward.value.weight", _DECODER + "2.DenseReluDense.wi_1.weight"),
        row("decoder.blocks.{i}.feed_forward.down.weight", _DECODER + "2.DenseReluDense.wo.weight"),
        row("decoder.norm.weight", "decoder.final_layer_norm.weight"),
        row("head.weight", "lm_head.weight", head=True),
    ),
    prefixes=("module.", "model."),
    ignored=("decoder.block.{i}.layer.1.EncDecAttention.relative_attention_bias.weight",),
)

PLAN = {
    "embed.token": "vocab",
    **blocks("*coder.blocks"),
    "*coder.bias.table": "table",
    "*coder.norm": "copy",
    "head": "vocab",
}
