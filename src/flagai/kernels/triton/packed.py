"""Triton kernels of encoders without gradients; :mod:`flagai.kernels.packed.attention` calls them."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["M"])
def add_norm_kernel(
    x, y, gain, shift, eps, out, M, K: tl.constexpr, ROWS: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """out[M, K] = norm(x + y), some rows a program."""
    TYPE: tl.constexpr = out.dtype.element_ty
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BK)
    real = (columns < K)[None, :]
    inside = (rows < M)[:, None] & real
    places = rows.to(tl.int64)[:, None] * K + columns[None, :]
    total = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(y + places, mask=inside, other=0.0).to(tl.float32)
    # Rounded where the plain computation has a tensor.
    total = total.to(TYPE).to(tl.float32)
    centred = tl.where(real, total - (tl.sum(total, axis=1) / K)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / K + eps)
    gains = tl.load(gain + columns, mask=columns < K, other=0.0).to(tl.float32)
    shifts = tl.load(shift + columns, mask=columns < K, other=0.0).to(tl.float32)
    found = centred * scale[:, None] * gains[None, :] + shifts[None, :]
    tl.store(out + places, found.to(TYPE), mask=inside)


@triton.jit
def head_of(numbers, start, head, STRIDE, rows, columns, inside, D: tl.constexpr):
    """One head of the rows of a text; a place of 64 bits for a program, inside of it 32 are enough."""
    places = start * STRIDE + head * D
    return tl.load(numbers + places + (rows * STRIDE + columns), mask=inside, other=0.0)


@triton.jit
def biased(numbers, bias, features, D: tl.constexpr):
    """Rows plus a bias, which is rounded first, as automatic mixed precision does: two numbers an instruction."""
    shift = tl.load(bias + features, mask=features < D, other=0.0).to(numbers.dtype)
    return numbers + shift[None, :]


@triton.jit
def powers(scores, scale):
    """exp(scores * scale), each row relative to its highest; as powers of two, which is what the hardware has."""
    rate = scale * 1.4426950408889634
    return tl.exp2(scores * rate - (tl.max(scores, axis=1) * rate)[:, None])


@triton.jit(do_not_specialize_on_alignment=["offsets"])
def short_attention_kernel(
    query,
    key,
    value,
    bias,
    offsets,
    out,
    scale,
    QUERY_STRIDE,
    KEY_STRIDE,
    VALUE_STRIDE,
    SHORTEST: tl.constexpr,
    BIAS: tl.constexpr,
    CAUSAL: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
):
    """One head of one of several texts in a row attends to its text of SHORTEST to BS positions; four of [T, H, D].

    The bias of queries, keys and values, [3, H, D], is not in them yet. That of the keys adds the same to all scores of
    a query, and so nothing to its shares. Their sum is one: that of the values is added to what they give.
    """
    TYPE: tl.constexpr = out.dtype.element_ty
    # Heads first: they lie beside each other in memory.
    text, head = tl.program_id(0) // H, tl.program_id(0) % H
    begin = tl.load(offsets + text)
    length = tl.load(offsets + text + 1) - begin
    if (length < SHORTEST) | (length > BS):
        return
    places, features = tl.arange(0, BS), tl.arange(0, BD)
    real = places < length
    inside = real[:, None] & (features < D)[None, :]
    rows, columns = places[:, None], features[None, :]
    start = begin.to(tl.int64)
    asked = head_of(query, start, head, QUERY_STRIDE, rows, columns, inside, D)
    keys = head_of(key, start, head, KEY_STRIDE, rows, columns, inside, D)
    values = head_of(value, start, head, VALUE_STRIDE, rows, columns, inside, D)
    if BIAS:
        asked = biased(asked, bias + head * D, features, D)
    attends = real[None, :]
    if CAUSAL:
        attends = attends & (places[None, :] <= rows)
    scores = tl.where(attends, tl.dot(asked, tl.trans(keys)), -float("inf"))
    shares = powers(scores, scale)
    total = tl.dot(shares.to(TYPE), values) * (1.0 / tl.sum(shares, axis=1))[:, None]
    if BIAS:
        shift = tl.load(bias + (2 * H + head) * D + features, mask=features < D, other=0.0).to(tl.float32)
        total += shift[None, :]
    out += start * (H * D) + head * D
    tl.store(out + (rows * (H * D) + columns), total.to(TYPE), mask=inside)
