"""Triton kernels with which encoders learn; :mod:`flagai.kernels.packed.attention_autograd` calls them.

Numbers of rows, and where texts begin, are not specialised: every batch has others, and to compile a kernel again
because one of them is a multiple of 16 would hold up a training for a second.
"""

import triton
import triton.language as tl

from flagai.kernels.triton.packed import biased, head_of, powers


@triton.jit(do_not_specialize_on_alignment=["offsets"])
def short_attention_backward_kernel(
    gradient, query, key, value, bias, offsets, query_gradient, key_gradient, value_gradient, sums, scale,
    GRADIENT_STRIDE, QUERY_STRIDE, KEY_STRIDE, VALUE_STRIDE, WRITTEN_STRIDE,
    SHORTEST: tl.constexpr, BIAS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """Gradients of one head of one text of SHORTEST to BS positions; seven of [T, H, D], whose rows may lie apart.

    All of a head fits into a program, so it computes the shares of the keys again and saves nothing else.

    The bias, [3, H, D], is not in queries, keys and values yet. As the shares of a query have the sum one, what those
    of keys and values would change cancels out; the gradient of the former is zero, that of the latter the sum of what
    was given. This and the gradient of the queries' bias are written for each text into sums, [texts, 2, H, D].
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
    start = begin.to(tl.int64)
    asked = head_of(query, start, head, QUERY_STRIDE, rows, columns, inside, D)
    keys = head_of(key, start, head, KEY_STRIDE, rows, columns, inside, D)
    given = head_of(gradient, start, head, GRADIENT_STRIDE, rows, columns, inside, D)
    values = head_of(value, start, head, VALUE_STRIDE, rows, columns, inside, D)
    if BIAS:
        asked = biased(asked, bias + head * D, features, D)
        sums += text.to(tl.int64) * (2 * H * D) + head * D
        # Here, not at the end: fewer registers.
        _store_sum(given, sums + H * D, features, D, BS)
    shares = powers(tl.where(real[None, :], tl.dot(asked, tl.trans(keys)), -float("inf")), scale)
    shares = shares * (1.0 / tl.sum(shares, axis=1))[:, None]
    slope = tl.dot(given, tl.trans(values))
    written = start * WRITTEN_STRIDE + head * D + (rows * WRITTEN_STRIDE + columns)
    # Rows that are no text have no gradient and give none.
    found = tl.dot(tl.trans(shares.to(TYPE)), given)
    tl.store(value_gradient + written, found.to(TYPE), mask=inside)
    level = tl.sum(shares * slope, axis=1) * scale
    slope = (shares * (slope * scale - level[:, None])).to(TYPE)
    found = tl.dot(tl.trans(slope), asked)
    tl.store(key_gradient + written, found.to(TYPE), mask=inside)
    found = tl.dot(slope, keys).to(TYPE)
    tl.store(query_gradient + written, found, mask=inside)
    if BIAS:
        _store_sum(found, sums, features, D, BS)


@triton.jit
def _store_sum(numbers, sums, features, D: tl.constexpr, BS: tl.constexpr):
    """The sum of all rows, by a product with ones: by shuffles it would be a sixth of the kernel's instructions."""
    # A product has at least sixteen rows; here all are the same.
    row = tl.arange(0, 16)[:, None]
    found = tl.dot(tl.full([16, BS], 1.0, numbers.dtype), numbers)
    tl.store(sums + (row * 0 + features[None, :]), found, mask=(row == 0) & (features < D)[None, :])


@triton.jit
def _kept(seed, rows, DROPPED: tl.constexpr, BK: tl.constexpr):
    """Which numbers of rows stay, [rows, BK]; DROPPED of 65,536 do not.

    Eight numbers share the 128 bits of one draw, which is a hundred instructions.
    """
    counters = rows[:, None] * (BK // 8) + tl.arange(0, BK // 8)[None, :]
    one, two, three, four = tl.randint4x(tl.load(seed), counters)
    drawn = tl.join(tl.join(one, two), tl.join(three, four)).to(tl.uint32, bitcast=True)
    halves = tl.join(drawn & 0xFFFF, drawn >> 16)
    return tl.reshape(halves, [rows.shape[0], BK]) >= DROPPED


# In a column whose shift is more than so often its gain, or whose gain is less than that, rounding of the norm would
# leave too little of the number behind it.
_SHIFT, _LEAST = tl.constexpr(8.0), tl.constexpr(2.0**-10)


@triton.jit
def _weak(gains, shifts):
    """Whether the norm of any column does not tell what was normalised."""
    strong = (tl.abs(shifts) <= tl.abs(gains) * _SHIFT) & (tl.abs(gains) >= _LEAST)
    return tl.min(strong.to(tl.int32)) == 0


@triton.jit(do_not_specialize=["M"])
def dropout_add_norm_kernel(
    hidden,
    added,
    bias,
    gain,
    shift,
    seed,
    eps,
    out,
    normal,
    rates,
    M,
    K: tl.constexpr,
    BIAS: tl.constexpr,
    DROPPED: tl.constexpr,
    ROWS: tl.constexpr,
    BK: tl.constexpr,
):
    """out[M, K] = the norm of hidden + dropout(added + bias), by rates[M]; normal[M, K] if any column is weak.

    The gradients need the numbers before gain and shift; out, which the next layer keeps anyway, mostly tells them.
    """
    TYPE: tl.constexpr = out.dtype.element_ty
    FACTOR: tl.constexpr = 65536 / (65536 - DROPPED)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BK)
    real = (columns < K)[None, :]
    inside = (rows < M)[:, None] & real
    places = rows.to(tl.int64)[:, None] * K + columns[None, :]
    summed = tl.load(added + places, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(hidden + places, mask=inside, other=0.0).to(tl.float32)
    gains = tl.load(gain + columns, mask=columns < K, other=1.0).to(tl.float32)
    shifts = tl.load(shift + columns, mask=columns < K, other=0.0).to(tl.float32)
    if BIAS:
        summed += tl.load(bias + columns, mask=columns < K, other=0.0).to(tl.float32)[None, :]
    if DROPPED > 0:
        summed = tl.where(_kept(seed, rows, DROPPED, BK), summed * FACTOR, 0.0)
    summed += before
    mean = tl.sum(summed, axis=1) / K
    centred = tl.where(real, summed - mean[:, None], 0.0)
    rate = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / K + eps)
    tl.store(rates + rows, rate, mask=rows < M)
    found = centred * rate[:, None]
    if _weak(gains, shifts):
        tl.store(normal + places, found.to(TYPE), mask=inside)
    tl.store(out + places, (found * gains[None, :] + shifts[None, :]).to(TYPE), mask=inside)


@triton.jit
def _both(one, other, more, another):
    return one + more, other + another


@triton.jit(do_not_specialize=["M"])
def dropout_add_norm_backward_kernel(
    gradient,
    out,
    normal,
    rates,
    gain,
    shift,
    seed,
    hidden_gradient,
    added_gradient,
    parameters,
    M,
    K: tl.constexpr,
    BIAS: tl.constexpr,
    DROPPED: tl.constexpr,
    ROWS: tl.constexpr,
    BK: tl.constexpr,
):
    """Gradients of both addends, [M, K], and each program's share of those of gain, shift and bias, [programs, 3, K].

    Without a bias there are two. A program goes over the rows in strides: there are few shares to add up afterwards.
    """
    TYPE: tl.constexpr = hidden_gradient.dtype.element_ty
    FACTOR: tl.constexpr = 65536 / (65536 - DROPPED)
    columns = tl.arange(0, BK)
    real = (columns < K)[None, :]
    gains = tl.load(gain + columns, mask=columns < K, other=1.0).to(tl.float32)[None, :]
    shifts = tl.load(shift + columns, mask=columns < K, other=0.0).to(tl.float32)[None, :]
    weak = _weak(gains, shifts)
    numbers = tl.where(weak, normal, out)
    zero, unit = tl.where(weak, 0.0, shifts), 1.0 / tl.where(weak, 1.0, gains)
    gain_share, shift_share, bias_share = (tl.zeros((BK,), tl.float32),) * 3
    for first in range(tl.program_id(0) * ROWS, M, tl.num_programs(0) * ROWS):
        rows = first + tl.arange(0, ROWS)
        inside = (rows < M)[:, None] & real
        places = rows.to(tl.int64)[:, None] * K + columns[None, :]
        found = (tl.load(numbers + places, mask=inside, other=0.0).to(tl.float32) - zero) * unit
        given = tl.load(gradient + places, mask=inside, other=0.0).to(tl.float32)
        rate = tl.load(rates + rows, mask=rows < M, other=0.0)[:, None]
        gain_share += tl.sum(given * found, axis=0)
        shift_share += tl.sum(given, axis=0)
        scaled = given * gains
        # Both sums at once: the warps of a row wait for each other only once.
        level, slope = tl.reduce((scaled, scaled * found), 1, _both)
        found = (scaled - (level / K)[:, None] - found * (slope / K)[:, None]) * rate
        tl.store(hidden_gradient + places, found.to(TYPE), mask=inside)
        if DROPPED > 0:
            found = tl.where(_kept(seed, rows, DROPPED, BK), found * FACTOR, 0.0)
            tl.store(added_gradient + places, found.to(TYPE), mask=inside)
        if BIAS:
            # Behind the last row, and in columns that are none, there is nothing to add.
            bias_share += tl.sum(found, axis=0)
    SHARES: tl.constexpr = 3 if BIAS else 2
    share = parameters + tl.program_id(0).to(tl.int64) * (SHARES * K) + columns
    tl.store(share, gain_share, mask=columns < K)
    tl.store(share + K, shift_share, mask=columns < K)
    if BIAS:
        tl.store(share + 2 * K, bias_share, mask=columns < K)


@triton.jit
def _normal(x):
    """How much of the normal distribution lies below x, and exp(-x² / 2).

    By Abramowitz and Stegun 1964, 7.1.26, which is less than 1.5e-7 beside it: a thousandth of a half's rounding, and
    of all that it needs the exponential is the one that GELU's slope needs, too.
    """
    bell = tl.exp(-0.5 * x * x)
    t = 1.0 / (1.0 + 0.2316418882 * tl.abs(x))
    poly = 0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    tail = 0.5 * bell * t * poly
    return tl.where(x < 0.0, tail, 1.0 - tail), bell


@triton.jit(do_not_specialize=["M"])
def bias_gelu_kernel(product, bias, out, M, K: tl.constexpr, ROWS: tl.constexpr, BK: tl.constexpr):
    """out[M, K] = gelu(product + bias), some columns of some rows a program."""
    PARTS: tl.constexpr = (K + BK - 1) // BK
    columns = (tl.program_id(0) % PARTS) * BK + tl.arange(0, BK)
    rows = (tl.program_id(0) // PARTS) * ROWS + tl.arange(0, ROWS)
    inside = (rows < M)[:, None] & (columns < K)[None, :]
    places = rows.to(tl.int64)[:, None] * K + columns[None, :]
    x = tl.load(product + places, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(bias + columns, mask=columns < K, other=0.0).to(tl.float32)[None, :]
    below, _ = _normal(x)
    tl.store(out + places, (x * below).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M"])
def bias_gelu_backward_kernel(
    gradient, product, bias, product_gradient, shares, M, K: tl.constexpr, ROWS: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """Gradient of the product, [M, K], and each program's share of the bias's, [programs, K].

    A program has some columns and goes over the rows in strides, as :func:`dropout_add_norm_backward_kernel` does.
    """
    PARTS: tl.constexpr = (K + BK - 1) // BK
    DENSITY: tl.constexpr = 0.3989422804
    columns = (tl.program_id(0) % PARTS) * BK + tl.arange(0, BK)
    program = tl.program_id(0) // PARTS
    biases = tl.load(bias + columns, mask=columns < K, other=0.0).to(tl.float32)[None, :]
    share = tl.zeros((ROWS, BK), tl.float32)
    for first in range(program * ROWS, M, (tl.num_programs(0) // PARTS) * ROWS):
        rows = first + tl.arange(0, ROWS)
        inside = (rows < M)[:, None] & (columns < K)[None, :]
        places = rows.to(tl.int64)[:, None] * K + columns[None, :]
        x = tl.load(product + places, mask=inside, other=0.0).to(tl.float32) + biases
        given = tl.load(gradient + places, mask=inside, other=0.0).to(tl.float32)
        below, bell = _normal(x)
        found = given * (below + x * DENSITY * bell)
        share += found
        tl.store(product_gradient + places, found.to(product_gradient.dtype.element_ty), mask=inside)
    tl.store(shares + program.to(tl.int64) * K + columns, tl.sum(share, axis=0), mask=columns < K)
