"""GPT-2: where the files keep the parameters, and how model-parallel ranks cut them.

Published files hold matrices as [in, out] (Conv1D); FlagAI's trainer writes them as [out, in] under the same
names, so the layout "linear" is told by the shape of ``c_attn``.
"""

from flagai.checkpoint.names import NameMap, row
from flagai.parallel.plan import blocks

_CONV1D = ("huggingface", "flagai")
_LINEAR = ("linear",)
_ATTENTION = "h.{i}.attn.c_attn.{p}"

NAMES = NameMap(
    rows=(
        row("embed.token.weight", "wte.weight"),
        row("embed.position.weight", "wpe.weight"),
        row("blocks.{i}.norm1.{p}", "h.{i}.ln_1.{p}"),
        row("blocks.{i}.attention.q.{p}", _ATTENTION, part=(0, 3), transposed=True, only=_CONV1D),
        row("blocks.{i}.attention.k.{p}", _ATTENTION, part=(1, 3), transposed=True, only=_CONV1D),
        row("blocks.{i}.attention.v.{p}", _ATTENTION, part=(2, 3), transposed=True, only=_CONV1D),
        row("blocks.{i}.attention.out.{p}", "h.{i}.attn.c_proj.{p}", transposed=True, only=_CONV1D),
        row("blocks.{i}.norm2.{p}", "h.{i}.ln_2.{p}"),
        row("blocks.{i}.feed_forward.up.{p}", "h.{i}.mlp.c_fc.{p}", transposed=True, only=_CONV1D),
        row("blocks.{i}.feed_forward.down.{p}", "h.{i}.mlp.c_proj.{p}", transposed=True, only=_CONV1D),
        row("norm.{p}", "ln_f.{p}"),
        row("head.weight", "lm_head.weight", head=True),
        row("blocks.{i}.attention.q.{p}", _ATTENTION, part=(0, 3), only=_LINEAR),
        row("blocks.{i}.attention.k.{p}", _ATTENTION, part=(1, 3), only=_LINEAR),
        row("blocks.{i}.attention.v.{p}", _ATTENTION, part=(2, 3), only=_LINEAR),
        row("blocks.{i}.attention.out.{p}", "h.{i}.attn.c_proj.{p}", only=_LINEAR),
        row("blocks.{i}.feed_forward.up.{p}", "h.{i}.mlp.c_fc.{p}", only=_LINEAR),
        row("blocks.{i}.feed_forward.down.{p}", "h.{i}.mlp.c_proj.{p}", only=_LINEAR),
    ),
    prefixes=("module.", "model.", "transformer."),
    ignored=("h.{i}.attn.bias", "h.{i}.attn.masked_bias"),
)

PLAN = {
    "embed.token": "vocab",
    "embed.position": "copy",
    **blocks(),
    "norm": "copy",
    "head": "vocab",
}
