"""Triton kernels of a decoding step of T5; :mod:`flagai.model.layer.decoding_t5` calls them.

T5's matrices are small: a step waits for launches and for the first bytes, not for all of them. So the norm is done by
the product that needs it, all lanes of a text share one reading of its keys and values, and what can be loaded before
the kernel before has ended is loaded then (see :mod:`flagai.model.layer.triton_kernels`).
"""

import triton
import triton.language as tl

from flagai.model.layer.triton_kernels import _activated


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
def _rows(matrix, rows, places, N, K: tl.constexpr, BK: tl.constexpr):
    # Some rows of a matrix at some places, [S, BN, KS]; read once and never again: first to leave the caches.
    inside = (rows < N)[None, :, None]
    if K % BK != 0:
        inside &= (places < K)[:, None, :]
    there = rows.to(tl.int64)[None, :, None] * K + places[:, None, :]
    return tl.load(matrix + there, mask=inside, other=0.0, eviction_policy="evict_first")


@triton.jit
def _gains(gain, places, K: tl.constexpr):
    return tl.load(gain + places, mask=places < K, other=0.0).to(tl.float32)


@triton.jit
def _tokens(x, places, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BK: tl.constexpr):
    # All tokens at some places, [S, MP, KS].
    index = tl.arange(0, MP)
    inside = (index < M)[None, :, None]
    if K % BK != 0:
        inside &= (places < K)[:, None, :]
    return tl.load(x + index[None, :, None] * K + places[:, None, :], mask=inside, other=0.0)


@triton.jit
def _weighed(tokens, gains, TYPE: tl.constexpr):
    # Tokens times gains for the product, and the sum of their squares, [S, MP].
    wide = tokens.to(tl.float32)
    return (wide * gains[:, None, :]).to(TYPE), tl.sum(wide * wide, axis=2)


@triton.jit
def _times(tile, tokens, total):
    return tl.dot(tile, tl.permute(tokens, (0, 2, 1)), total)


@triton.jit
def _fetched(matrix, rows, N, K: tl.constexpr, LINES: tl.constexpr):
    # Ask for some rows of a matrix, 128 bytes a time, without waiting until they are in the second-level cache.
    lines = tl.arange(0, LINES) * 64
    there = rows.to(tl.int64)[:, None] * K + lines[None, :]
    there = tl.where((rows < N)[:, None] & (lines < K)[None, :], there, 0)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [(matrix + there).to(tl.int64)], tl.int32, False, 1
    )


@triton.jit
def _products(
    x, gain, eps, matrix, second, residual, rows, N,
    K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, S: tl.constexpr, KS: tl.constexpr,
    LINES: tl.constexpr, NORMED: tl.constexpr, GATED: tl.constexpr, RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    # Some rows of a matrix, and of a second one, times norm(x), and a residual: three of [BN, MP]. Each of S warps has
    # its own part of the features, and their sums meet in the end. Short rows are held whole, and are there before x
    # is; long rows are on their way by then, and come in pieces. What costs time are the ways to the memory: there
    # must be one after the other as seldom as possible. The root mean square is a factor of a whole token: it is
    # gathered beside the product and applied in the end.
    TYPE: tl.constexpr = matrix.dtype.element_ty
    BK: tl.constexpr = S * KS
    places = tl.arange(0, S)[:, None] * KS + tl.arange(0, KS)[None, :]
    index = tl.arange(0, MP)
    inside = (index < M)[None, :] & (rows < N)[:, None]
    total = tl.zeros([S, BN, MP], dtype=tl.float32)
    other = total
    squares = tl.zeros([S, MP], dtype=tl.float32)
    added = tl.zeros([BN, MP], dtype=tl.float32)
    if BK >= K:
        tile = _rows(matrix, rows, places, N, K, BK)
        if GATED:
            tile2 = _rows(second, rows, places, N, K, BK)
        if NORMED:
            gains = _gains(gain, places, K)
    if EARLY:
        if BK < K:
            _fetched(matrix, rows, N, K, LINES)
            if GATED:
                _fetched(second, rows, N, K, LINES)
        tl.extra.cuda.gdc_wait()
    if RESIDUAL:
        added = tl.load(residual + index[None, :] * N + rows[:, None], mask=inside, other=0.0).to(tl.float32)
    if BK >= K:
        tokens = _tokens(x, places, K, M, MP, BK)
        if NORMED:
            tokens, squares = _weighed(tokens, gains, TYPE)
        total = _times(tile, tokens, total)
        if GATED:
            other = _times(tile2, tokens, other)
    else:
        for start in range(0, K, BK):
            tokens = _tokens(x, start + places, K, M, MP, BK)
            if NORMED:
                tokens, more = _weighed(tokens, _gains(gain, start + places, K), TYPE)
                squares += more
            total = _times(_rows(matrix, rows, start + places, N, K, BK), tokens, total)
            if GATED:
                other = _times(_rows(second, rows, start + places, N, K, BK), tokens, other)
    found = tl.sum(total, axis=0)
    gate = found
    if GATED:
        gate = tl.sum(other, axis=0)
    if NORMED:
        scale = (1.0 / tl.sqrt(tl.sum(squares, axis=0) / K + eps))[None, :]
        found *= scale
        gate *= scale
    return found, gate, added


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
    S: tl.constexpr,
    KS: tl.constexpr,
    LINES: tl.constexpr,
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
    total, other, added = _products(
        x, gain, eps, matrix, second, residual, rows, N, K=K, M=M, MP=MP, BN=BN, S=S, KS=KS, LINES=LINES,
        NORMED=NORMED, GATED=GATED, RESIDUAL=RESIDUAL, EARLY=EARLY,
    )  # fmt: skip
    # Rounded where the plain computation has a tensor.
    total = _activated(total.to(TYPE).to(tl.float32), ACTIVATION)
    if GATED:
        total = total.to(TYPE).to(tl.float32) * other.to(TYPE).to(tl.float32)
    places = index[None, :] * N + rows[:, None]
    inside = (index < M)[None, :] & (rows < N)[:, None]
    if RESIDUAL:
        total = total.to(TYPE).to(tl.float32) + added
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
    S: tl.constexpr,
    KS: tl.constexpr,
    LINES: tl.constexpr,
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
    total, _, _ = _products(
        x, gain, eps, matrix, matrix, query, rows, N, K=K, M=M, MP=MP, BN=BN, S=S, KS=KS, LINES=LINES,
        NORMED=NORMED, GATED=False, RESIDUAL=False, EARLY=EARLY,
    )  # fmt: skip
    inside = (index < M)[None, :] & (rows < N)[:, None]
    if which == 0:
        tl.store(query + index[None, :] * N + rows[:, None], total.to(TYPE), mask=inside)
    else:
        slot = tl.load(now + index % LANES)
        text_head = (index // LANES)[None, :] * (N // D) + (rows // D)[:, None]
        places = (text_head.to(tl.int64) * CAPACITY + slot[None, :]) * D + (rows % D)[:, None]
        if which == 1:
            tl.store(keys + places, total.to(TYPE), mask=inside)
        else:
            tl.store(values + places, total.to(TYPE), mask=inside)


@triton.jit
def _cells(keys, values, base, slots, end, D: tl.constexpr, features):
    inside = (slots < end)[:, None] & (features < D)[None, :]
    cells = base + slots[:, None] * D + features[None, :]
    return tl.load(keys + cells, mask=inside, other=0.0), tl.load(values + cells, mask=inside, other=0.0)


@triton.jit
def _scores(asked, key, seen, slots, lanes, end, scale, LANES: tl.constexpr, SCORED: tl.constexpr):
    # [LP, BC]
    written = (slots < end)[None, :]
    told = tl.load(seen + slots[None, :], mask=(lanes < LANES)[:, None] & written, other=0)
    scores = tl.dot(asked, tl.trans(key)) * scale
    if SCORED:
        scores = tl.where(written, scores + told.to(tl.float32), -float("inf"))
    else:
        scores = tl.where(told != 0, scores, -float("inf"))
    return scores


@triton.jit
def _gathered(scores, value, highest, weight, total):
    # A softmax goes on over more scores.
    higher = tl.maximum(highest, tl.max(scores, axis=1))
    level = tl.where(higher == -float("inf"), 0.0, higher)
    shares = tl.exp(scores - level[:, None])
    shrink = tl.exp(highest - level)
    weight = weight * shrink + tl.sum(shares, axis=1)
    return higher, weight, tl.dot(shares.to(value.dtype), value, total * shrink[:, None])


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
    WHOLE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """All lanes of one text attend with one head; [M, H, D], caches [B, H, capacity, D], mask [B, H, W, capacity]."""
    text, head = tl.program_id(0), tl.program_id(1)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    lanes = tl.arange(0, LP)
    features = tl.arange(0, BD)
    slots = tl.arange(0, BC)
    places = ((text * LANES + lanes) * H + head)[:, None] * D + features[None, :]
    real = (lanes < LANES)[:, None] & (features < D)[None, :]
    base = (text * H + head).to(tl.int64) * CAPACITY * D
    seen = mask + text.to(tl.int64) * TEXT_STRIDE + head.to(tl.int64) * HEAD_STRIDE + lanes[:, None] * LANE_STRIDE
    if WHOLE:
        # What the encoder said has been there for long: it is read before the queries are there.
        key, value = _cells(keys, values, base, slots, CAPACITY, D, features)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    asked = tl.load(query + places, mask=real, other=0.0)
    highest = tl.full([LP], -float("inf"), tl.float32)
    weight = tl.zeros([LP], dtype=tl.float32)
    total = tl.zeros([LP, BD], dtype=tl.float32)
    if WHOLE:
        scores = _scores(asked, key, seen, slots, lanes, CAPACITY, scale, LANES, SCORED)
        highest, weight, total = _gathered(scores, value, highest, weight, total)
    else:
        end = tl.load(now + LANES - 1).to(tl.int32) + 1 if GROWING else CAPACITY
        for start in range(0, end, BC):
            key, value = _cells(keys, values, base, start + slots, end, D, features)
            scores = _scores(asked, key, seen, start + slots, lanes, end, scale, LANES, SCORED)
            highest, weight, total = _gathered(scores, value, highest, weight, total)
    tl.store(out + places, (total / weight[:, None]).to(out.dtype.element_ty), mask=real)
