"""Triton kernels of a decoding step of T5; :mod:`flagai.model.layer.decoding_t5` calls them.

T5's matrices are small: a step waits for launches and for the first bytes, not for all of them. So the norm is done by
the product that needs it, all lanes of a text share one reading of its keys and values, and what can be loaded before
the kernel before has ended is loaded then (see :mod:`flagai.model.layer.triton_kernels`).
"""

import triton
import triton.language as tl

from flagai.model.layer.triton_kernels import _activated, _weights


@triton.jit
def rms_norm_kernel(x, gain, eps, out, K: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr):
    """out[M, K] = norm(x)[M, K], a row a program; x may be wider than out."""
    TYPE: tl.constexpr = out.dtype.element_ty
    columns = tl.arange(0, BK)
    inside = columns < K
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    places = tl.program_id(0) * K + columns
    row = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(row * row, axis=0) / K + eps)
    tl.store(out + places, ((row * scale).to(TYPE).to(tl.float32) * gains).to(TYPE), mask=inside)


@triton.jit
def _tokens(x, here, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BK: tl.constexpr):
    index = tl.arange(0, MP)
    inside = (index < M)[:, None]
    if K % BK != 0:
        inside &= (here < K)[None, :]
    return tl.load(x + index[:, None] * K + here[None, :], mask=inside, other=0.0)


@triton.jit
def _products(
    x, gain, eps, matrix, second, rows, N,
    K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    NORMED: tl.constexpr, GATED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    # norm(x) times some rows of a matrix, and of a second one, two of [MP, BN]. The root mean square is a factor of a
    # whole token: it is gathered beside the product and applied in the end.
    TYPE: tl.constexpr = matrix.dtype.element_ty
    columns = tl.arange(0, BK)
    total = tl.zeros([MP, BN], dtype=tl.float32)
    other = tl.zeros([MP, BN], dtype=tl.float32)
    squares = tl.zeros([MP], dtype=tl.float32)
    if BK >= K:
        tile = _weights(matrix, rows, columns, N, K, BK)
        if GATED:
            tile2 = _weights(second, rows, columns, N, K, BK)
        if NORMED:
            gains = tl.load(gain + columns, mask=columns < K, other=0.0).to(tl.float32)
        if EARLY:
            tl.extra.cuda.gdc_wait()
        tokens = _tokens(x, columns, K, M, MP, BK)
        if NORMED:
            wide = tokens.to(tl.float32)
            squares = tl.sum(wide * wide, axis=1)
            tokens = (wide * gains[None, :]).to(TYPE)
        total = tl.dot(tokens, tl.trans(tile), total)
        if GATED:
            other = tl.dot(tokens, tl.trans(tile2), other)
    else:
        if EARLY:
            tl.extra.cuda.gdc_wait()
        for start in range(0, K, BK):
            here = start + columns
            tokens = _tokens(x, here, K, M, MP, BK)
            if NORMED:
                wide = tokens.to(tl.float32)
                squares += tl.sum(wide * wide, axis=1)
                gains = tl.load(gain + here, mask=here < K, other=0.0).to(tl.float32)
                tokens = (wide * gains[None, :]).to(TYPE)
            total = tl.dot(tokens, tl.trans(_weights(matrix, rows, here, N, K, BK)), total)
            if GATED:
                other = tl.dot(tokens, tl.trans(_weights(second, rows, here, N, K, BK)), other)
    if NORMED:
        scale = (1.0 / tl.sqrt(squares / K + eps))[:, None]
        total *= scale
        other *= scale
    return total, other


@triton.jit
def t5_product_kernel(
    x,
    gain,
    eps,
    matrix,
    second,
    residual,
    out,
    N,
    K: tl.constexpr,
    M: tl.constexpr,
    MP: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NORMED: tl.constexpr,
    GATED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    EARLY: tl.constexpr,
):
    """out[M, N] = activation(norm(x) @ matrix.T) * (norm(x) @ second.T) + residual, each part if it is wanted."""
    TYPE: tl.constexpr = matrix.dtype.element_ty
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    index = tl.arange(0, MP)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    total, other = _products(
        x, gain, eps, matrix, second, rows, N,
        K=K, M=M, MP=MP, BN=BN, BK=BK, NORMED=NORMED, GATED=GATED, EARLY=EARLY,
    )  # fmt: skip
    # Rounded where the plain computation has a tensor.
    total = _activated(total.to(TYPE).to(tl.float32), ACTIVATION)
    if GATED:
        total = total.to(TYPE).to(tl.float32) * other.to(TYPE).to(tl.float32)
    places = index[:, None] * N + rows[None, :]
    inside = (index < M)[:, None] & (rows < N)[None, :]
    if RESIDUAL:
        total = total.to(TYPE).to(tl.float32) + tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def t5_projection_kernel(
    x,
    gain,
    eps,
    query_matrix,
    key_matrix,
    value_matrix,
    query,
    keys,
    values,
    now,
    N,
    CAPACITY,
    K: tl.constexpr,
    M: tl.constexpr,
    MP: tl.constexpr,
    LANES: tl.constexpr,
    D: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    NORMED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Queries of norm(x)[M, K] into query[M, N]; keys and values into their slots of a cache [B, H, capacity, D]."""
    TYPE: tl.constexpr = query.dtype.element_ty
    blocks = tl.cdiv(N, BN)
    which = tl.program_id(0) // blocks
    rows = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    index = tl.arange(0, MP)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    if which == 0:
        matrix = query_matrix
    elif which == 1:
        matrix = key_matrix
    else:
        matrix = value_matrix
    total, _ = _products(
        x, gain, eps, matrix, matrix, rows, N,
        K=K, M=M, MP=MP, BN=BN, BK=BK, NORMED=NORMED, GATED=False, EARLY=EARLY,
    )  # fmt: skip
    inside = (index < M)[:, None] & (rows < N)[None, :]
    if which == 0:
        tl.store(query + index[:, None] * N + rows[None, :], total.to(TYPE), mask=inside)
    else:
        slot = tl.load(now + index % LANES)
        text_head = (index // LANES)[:, None] * (N // D) + (rows // D)[None, :]
        places = (text_head.to(tl.int64) * CAPACITY + slot[:, None]) * D + (rows % D)[None, :]
        if which == 1:
            tl.store(keys + places, total.to(TYPE), mask=inside)
        else:
            tl.store(values + places, total.to(TYPE), mask=inside)


@triton.jit
def t5_attention_kernel(
    query,
    keys,
    values,
    mask,
    now,
    out,
    scale,
    H,
    CAPACITY,
    TEXT_STRIDE,
    HEAD_STRIDE,
    LANE_STRIDE,
    LANES: tl.constexpr,
    LP: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    SCORED: tl.constexpr,
    GROWING: tl.constexpr,
    EARLY: tl.constexpr,
):
    """All lanes of one text attend with one head; [M, H, D], caches [B, H, capacity, D], mask [B, H, W, capacity]."""
    TYPE: tl.constexpr = keys.dtype.element_ty
    text, head = tl.program_id(0), tl.program_id(1)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    lanes = tl.arange(0, LP)
    features = tl.arange(0, BD)
    places = ((text * LANES + lanes) * H + head)[:, None] * D + features[None, :]
    real = (lanes < LANES)[:, None] & (features < D)[None, :]
    asked = tl.load(query + places, mask=real, other=0.0)
    end = CAPACITY
    if GROWING:
        end = tl.load(now + LANES - 1).to(tl.int32) + 1
    base = (text * H + head).to(tl.int64) * CAPACITY * D
    seen = mask + text.to(tl.int64) * TEXT_STRIDE + head.to(tl.int64) * HEAD_STRIDE + lanes[:, None] * LANE_STRIDE
    highest = tl.full([LP], -float("inf"), tl.float32)
    weight = tl.zeros([LP], dtype=tl.float32)
    total = tl.zeros([LP, BD], dtype=tl.float32)
    for start in range(0, end, BC):
        slots = start + tl.arange(0, BC)
        written = slots < end
        inside = written[:, None] & (features < D)[None, :]
        cells = base + slots[:, None] * D + features[None, :]
        key = tl.load(keys + cells, mask=inside, other=0.0)
        value = tl.load(values + cells, mask=inside, other=0.0)
        told = tl.load(seen + slots[None, :], mask=(lanes < LANES)[:, None] & written[None, :], other=0)
        scores = tl.dot(asked, tl.trans(key)) * scale
        if SCORED:
            scores = tl.where(written[None, :], scores + told.to(tl.float32), -float("inf"))
        else:
            scores = tl.where(told != 0, scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        level = tl.where(higher == -float("inf"), 0.0, higher)
        shares = tl.exp(scores - level[:, None])
        shrink = tl.exp(highest - level)
        weight = weight * shrink + tl.sum(shares, axis=1)
        total = tl.dot(shares.to(TYPE), value, total * shrink[:, None])
        highest = higher
    tl.store(out + places, (total / weight[:, None]).to(TYPE), mask=real)
