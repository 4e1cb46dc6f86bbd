"""The Triton kernels of a decoding step with rotary positions; :mod:`flagai.kernels.decode.rotary_block` calls them."""

import triton
import triton.language as tl

from flagai.kernels.triton.decode import load_weights
from flagai.kernels.triton.quantized_gemv import gemv, load_tile, load_tokens


@triton.jit
def rotary_to_cache_kernel(
    asked, key, value, cos, sin, slot_mapping, query, keys, values, asked_row, key_row, value_row, H, HK,
    D: tl.constexpr, BD: tl.constexpr, TURNED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Turn neighbours of the first TURNED features; query[M, H, D], and pools [slots, HK, D]. A head a program."""
    token, head = tl.program_id(0), tl.program_id(1)
    features = tl.arange(0, BD)
    inside, turned = features < D, features < TURNED
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    angles = token * (TURNED // 2) + features // 2
    c = tl.load(cos + angles, mask=turned, other=1.0)
    s = tl.load(sin + angles, mask=turned, other=0.0)
    s = tl.where(features % 2 == 0, -s, s)
    slot = tl.load(slot_mapping + token)
    if PDL:
        tl.extra.cuda.gdc_wait()
    if head < H:
        source = asked + token * asked_row + head * D
        target = query + (token * H + head) * D
    elif head < H + HK:
        source = key + token * key_row + (head - H) * D
        target = keys + (slot * HK + head - H) * D
    else:
        source = value + token * value_row + (head - H - HK) * D
        target = values + (slot * HK + head - H - HK) * D
    own = tl.load(source + features, mask=inside, other=0.0)
    if head < H + HK:
        other = tl.load(source + (features ^ 1), mask=turned, other=0.0).to(tl.float32)
        own = (own.to(tl.float32) * c + other * s).to(own.dtype)
    tl.store(target + features, own, mask=inside)


@triton.jit
def _gated(gate, value, TYPE: tl.constexpr):
    # silu(gate) * value, rounded where the plain computation has a tensor.
    gate, value = gate.to(TYPE).to(tl.float32), value.to(TYPE).to(tl.float32)
    return ((gate * tl.sigmoid(gate)).to(TYPE).to(tl.float32) * value).to(TYPE)


@triton.jit
def swiglu_kernel(both, out, count, F, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """out[M, F] = silu(both[M, :F]) * both[M, F:], rounded where the plain computation has a tensor."""
    TYPE: tl.constexpr = out.dtype.element_ty
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    first = both + places // F * 2 * F + places % F
    gate, value = tl.load(first, mask=inside, other=0.0), tl.load(first + F, mask=inside, other=0.0)
    tl.store(out + places, _gated(gate, value, TYPE), mask=inside)


@triton.jit
def gated_linear_kernel(x, matrix, out, N, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr):
    """out[N] = silu(gate) * value of one token x[K], whose matrices [N, K] lie one behind the other."""
    TYPE: tl.constexpr = out.dtype.element_ty
    rows, columns = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BK)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    first = load_weights(matrix, rows, columns, N, K, BK)
    second = load_weights(matrix + N.to(tl.int64) * K, rows, columns, N, K, BK)
    if PDL:
        tl.extra.cuda.gdc_wait()
    row = tl.load(x + columns, mask=columns < K, other=0.0).to(tl.float32)
    gate = tl.sum(first.to(tl.float32) * row[None, :], axis=1)
    value = tl.sum(second.to(tl.float32) * row[None, :], axis=1)
    tl.store(out + rows, _gated(gate, value, TYPE), mask=rows < N)


@triton.jit
def quantized_gated_linear_kernel(
    x, matrix, scales, out, N, WORDS, SCALES, K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The same of one token (M) and weights of 8 or 4 bits; the second matrix begins after so many words and scales."""
    TYPE: tl.constexpr = out.dtype.element_ty
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    first, first_steps = load_tile(matrix, scales, rows, N, K, G, BITS, BK)
    second, second_steps = load_tile(matrix + WORDS, scales + SCALES, rows, N, K, G, BITS, BK)
    if PDL:
        tl.extra.cuda.gdc_wait()
    tokens = load_tokens(x, K, G, BITS, M, BK, ASM)
    gates = gemv(tokens, first, first_steps, BITS, M, ASM)
    values = gemv(tokens, second, second_steps, BITS, M, ASM)
    tl.store(out + rows, _gated(gates[0], values[0], TYPE), mask=rows < N)
