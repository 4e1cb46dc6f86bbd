"""The Triton kernels of a decoding step with rotary positions; :mod:`flagai.kernels.decode.rotary_block` calls them."""

import triton
import triton.language as tl


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
def swiglu_kernel(both, out, count, F, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """out[M, F] = silu(both[M, :F]) * both[M, F:], rounded where the plain computation has a tensor."""
    TYPE: tl.constexpr = out.dtype.element_ty
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    first = both + places // F * 2 * F + places % F
    gate = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(first + F, mask=inside, other=0.0).to(tl.float32)
    gate = (gate * tl.sigmoid(gate)).to(TYPE).to(tl.float32)
    tl.store(out + places, (gate * value).to(TYPE), mask=inside)
