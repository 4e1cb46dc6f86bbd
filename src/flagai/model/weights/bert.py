"""BERT and RoBERTa: where the files keep the parameters, and how model-parallel ranks cut them.

Hugging Face's files hold query, key and value apart, FlagAI's trainer stacks them; the first TensorFlow
conversions call a norm's parameters gamma and beta.
"""

from flagai.checkpoint.names import NameMap, row
from flagai.parallel.plan import blocks

_FLAGAI = ("flagai",)
_HUGGINGFACE = ("huggingface",)
_ROBERTA = ("roberta",)  # read, not written
_SELF = "encoder.layer.{i}.attention.self."
_FUSED = _SELF + "query_key_value.{p}"

NAMES = NameMap(
    rows=(
        row("embed.token.weight", "embeddings.word_embeddings.weight"),
        row("embed.position.weight", "embeddings.position_embeddings.weight"),
        row("embed.segment.weight", "embeddings.token_type_embeddings.weight"),
        row("embed.norm.{p}", "embeddings.LayerNorm.{p}"),
        row("blocks.{i}.attention.q.{p}", _SELF + "query.{p}", only=_HUGGINGFACE),
        row("blocks.{i}.attention.k.{p}", _SELF + "key.{p}", only=_HUGGINGFACE),
        row("blocks.{i}.attention.v.{p}", _SELF + "value.{p}", only=_HUGGINGFACE),
        row("blocks.{i}.attention.q.{p}", _FUSED, part=(0, 3), only=_FLAGAI),
        row("blocks.{i}.attention.k.{p}", _FUSED, part=(1, 3), only=_FLAGAI),
        row("blocks.{i}.attention.v.{p}", _FUSED, part=(2, 3), only=_FLAGAI),
        row("blocks.{i}.attention.out.{p}", "encoder.layer.{i}.attention.output.dense.{p}"),
        row("blocks.{i}.norm1.{p}", "encoder.layer.{i}.attention.output.LayerNorm.{p}"),
        row("blocks.{i}.feed_forward.up.{p}", "encoder.layer.{i}.intermediate.dense.{p}"),
        row("blocks.{i}.feed_forward.down.{p}", "encoder.layer.{i}.output.dense.{p}"),
        row("blocks.{i}.norm2.{p}", "encoder.layer.{i}.output.LayerNorm.{p}"),
        row("pooler.dense.{p}", "pooler.dense.{p}"),
        row("head.transform.{p}", "cls.predictions.transform.dense.{p}", head=True),
        row("head.norm.{p}", "cls.predictions.transform.LayerNorm.{p}", head=True),
        row("head.decoder.weight", "cls.predictions.decoder.weight", head=True),
        row("head.decoder.bias", "cls.predictions.decoder.bias", head=True),
        row("head.decoder.bias", "cls.predictions.bias", head=True, only=_HUGGINGFACE),
        row("head.transform.{p}", "lm_head.dense.{p}", head=True, only=_ROBERTA),
        row("head.norm.{p}", "lm_head.layer_norm.{p}", head=True, only=_ROBERTA),
        row("head.decoder.weight", "lm_head.decoder.weight", head=True, only=_ROBERTA),
        row("head.decoder.bias", "lm_head.decoder.bias", head=True, only=_ROBERTA),
        row("head.decoder.bias", "lm_head.bias", head=True, only=_ROBERTA),
        row("classifier.{p}", "classifier.{p}", head=True, only=_HUGGINGFACE),
        row("classifier.{p}", "out_layer.{p}", head=True, only=_FLAGAI),
        row("tagger.{p}", "classifier.{p}", head=True, only=_HUGGINGFACE),
        row("tagger.{p}", "final_dense.{p}", head=True, only=_FLAGAI),
        row("crf.transitions", "crf_layer.trans", head=True),
        row("pointer.dense.{p}", "gp.dense.{p}", head=True),
    ),
    prefixes=("module.", "model.", "bert.", "roberta."),
    renames=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    ignored=("embeddings.position_ids", "embeddings.token_type_ids", "cls.seq_relationship.{p}"),
)

PLAN = {
    "embed.token": "vocab",
    "embed.*": "copy",
    **blocks(),
    "pooler.dense": "copy",
    "head.decoder": "vocab",
    "head.*": "copy",
    "classifier": "copy",
    "tagger": "copy",
    "crf": "copy",
    "pointer.dense": "copy",
}
