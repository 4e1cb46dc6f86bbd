"""The Triton kernel of a decoding step of T5; :mod:`flagai.kernels.decode.t5_block` calls it."""

import triton
import triton.language as tl


@triton.jit
def rms_norm_kernel(x, gain, eps, out, K: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr):
    """out[M, K] = norm(x)[M, K], a row a program; x may be wider than out."""
    TYPE: tl.constexpr = out.dtype.element_ty
    columns = tl.arange(0, BK)
    inside = columns < K
    places = tl.program_id(0).to(tl.int64) * K + columns
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    row = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(row * row, axis=0) / K + eps)
    # Rounded where the plain computation has a tensor.
    tl.store(out + places, ((row * scale).to(TYPE).to(tl.float32) * gains).to(TYPE), mask=inside)
