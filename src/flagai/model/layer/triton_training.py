"""Triton kernels with which encoders learn; :mod:`flagai.model.layer.training` calls them."""

import triton
import triton.language as tl


@triton.jit
def short_attention_gradient_kernel(
    gradient,
    query,
    key,
    value,
    offsets,
    query_gradient,
    key_gradient,
    value_gradient,
    scale,
    GRADIENT_STRIDE,
    QUERY_STRIDE,
    KEY_STRIDE,
    VALUE_STRIDE,
    SHORTEST: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BS: tl.constexpr,
):
    """Gradients of one head of one text of SHORTEST to BS positions; seven of [T, H, D].

    All of a head fits into a program, so it computes the shares of the keys again and saves nothing else.
    """
    TYPE: tl.constexpr = query_gradient.dtype.element_ty
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
    # One place of 64 bits for a program; inside of it 32 are enough.
    start = begin.to(tl.int64)
    query += start * QUERY_STRIDE + head * D
    key += start * KEY_STRIDE + head * D
    value += start * VALUE_STRIDE + head * D
    gradient += start * GRADIENT_STRIDE + head * D
    asked = tl.load(query + rows * QUERY_STRIDE + columns, mask=inside, other=0.0)
    keys = tl.load(key + rows * KEY_STRIDE + columns, mask=inside, other=0.0)
    values = tl.load(value + rows * VALUE_STRIDE + columns, mask=inside, other=0.0)
    given = tl.load(gradient + rows * GRADIENT_STRIDE + columns, mask=inside, other=0.0)
    scores = tl.where(real[None, :], tl.dot(asked, tl.trans(keys)) * scale, -float("inf"))
    shares = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    shares = shares / tl.sum(shares, axis=1)[:, None]
    written = start * (H * D) + head * D + rows * (H * D) + columns
    # Rows that are no text have no gradient and give none.
    found = tl.dot(tl.trans(shares.to(TYPE)), given)
    tl.store(value_gradient + written, found.to(TYPE), mask=inside)
    slope = tl.dot(given, tl.trans(values))
    slope = (shares * (slope - tl.sum(shares * slope, axis=1)[:, None]) * scale).to(TYPE)
    found = tl.dot(tl.trans(slope), asked)
    tl.store(key_gradient + written, found.to(TYPE), mask=inside)
    found = tl.dot(slope, keys)
    tl.store(query_gradient + written, found.to(TYPE), mask=inside)
