"""Triton kernels of a decoding step for weights of 8 and 4 bits; :mod:`flagai.model.layer.quantized` says how they lie.

There are three ways (``KIND``). In all of them numbers become floats without conversions, which are slow: their bits
are put into the mantissa of a constant, and what that adds is taken off in the end.

``words``: for few tokens. Every thread holds 16 bytes (a unit) of each of the program's rows in registers, all loaded
before the tokens are there, and multiplies them one by one. The order of dimensions of a tile, units first, decides
that Triton lets neighbouring threads read neighbouring units, and that only sums are exchanged between threads.

``groups``: four bits in groups of 128, on tensor cores. Rows of weights are held likewise; each group is a matrix
product of its own, whose result is multiplied by the group's step. Products with ones give what has to be taken off.

``tiles``: any number of tokens and any groups, on tensor cores, from weights that are widened on the way.
"""

import triton
import triton.language as tl

from flagai.model.layer.triton_kernels import _activated
from flagai.model.layer.triton_tiles import _chunk, _grouped, _many
from flagai.model.layer.triton_unpack import (
    _both_sums,
    _bring,
    _four_bytes,
    _halves,
    _nibble_factor,
    _nibble_value,
    _places,
    _quarters,
)


@triton.jit
def _moments(x, units, U: tl.constexpr, K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr):
    # Mean and mean square of a token.
    sums = tl.zeros([units.shape[0]], dtype=tl.float32)
    squares = tl.zeros([units.shape[0]], dtype=tl.float32)
    for j in tl.static_range(8 if BITS == 4 else 2):
        part = tl.load(x + _places(units, j, G, BITS), mask=(units < U)[:, None], other=0.0).to(tl.float32)
        sums += tl.sum(part, axis=1)
        squares += tl.sum(part * part, axis=1)
    total, square = tl.reduce((sums, squares), 0, _both_sums)
    return total / K, square / K


@triton.jit
def _held(
    matrix, scales, rows, N,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    # Some rows of a matrix as words, [BU, BN, 4], and their scales: of 4 bits for each unit, of 8 for each row.
    U: tl.constexpr = K * BITS // 128
    units = tl.arange(0, BU)
    wide = rows.to(tl.int64)
    real = (rows < N)[None, :] & (units < U)[:, None]
    places = (wide * (4 * U))[None, :, None] + (units * 4)[:, None, None] + tl.arange(0, 4)[None, None, :]
    # Read once and never again: first to leave the caches, where the tokens stay.
    words = tl.load(matrix + places, mask=real[:, :, None], other=0, eviction_policy="evict_first")
    if BITS == 4:
        steps = tl.load(scales + (wide * (K // G))[None, :] + (units // (G // 32))[:, None], mask=real, other=0)
    else:
        steps = tl.load(scales + rows, mask=rows < N, other=0.0)
    return words, steps


@triton.jit
def _four_nibbles(total, plain, added, part, v0, v1, v2, v3, J: tl.constexpr):
    # Nibble J of four words meets four numbers of a token, part [BU, 4].
    x0, x1, x2, x3 = _quarters(part * _nibble_factor(J))
    together = (x0 + x1) + (x2 + x3)
    plain += together / _nibble_factor(J)
    added += together
    total += v0 * x0[:, None]
    total += v1 * x1[:, None]
    total += v2 * x2[:, None]
    total += v3 * x3[:, None]
    return total, plain, added


@triton.jit
def _eight_bytes(total, added, part, first, second, ASM: tl.constexpr):
    # The bytes of two words meet eight numbers of a token, part [BU, 8].
    even, odd = _halves(part)
    x0, x2, x4, x6 = _quarters(even)
    x1, x3, x5, x7 = _quarters(odd)
    added += (x0 + x1 + x2 + x3) + (x4 + x5 + x6 + x7)
    total += _four_bytes(first, x0, x1, x2, x3, ASM)
    total += _four_bytes(second, x4, x5, x6, x7, ASM)
    return total, added


@triton.jit
def _few(
    x, gain, shift, eps, words, steps,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, NORM: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    # Few tokens, normalised if NORM, times the rows that are held: M of [BN].
    BU: tl.constexpr = words.shape[0]
    BN: tl.constexpr = words.shape[1]
    U: tl.constexpr = K * BITS // 128
    units = tl.arange(0, BU)
    real = (units < U)[:, None]
    w0, w1, w2, w3 = _quarters(words)
    totals = ()
    plains = ()
    addeds = ()
    means = ()
    rates = ()
    for m in tl.static_range(M):
        totals = totals + (tl.zeros([BU, BN], dtype=tl.float32),)
        plains = plains + (tl.zeros([BU], dtype=tl.float32),)
        addeds = addeds + (tl.zeros([BU], dtype=tl.float32),)
        if NORM:
            mean, square = _moments(x + m * K, units, U, K, G, BITS)
            means = means + (mean,)
            rates = rates + (1.0 / tl.sqrt(square - mean * mean + eps),)
    for j in tl.static_range(8 if BITS == 4 else 2):
        here = _places(units, j, G, BITS)
        if NORM:
            gains = tl.load(gain + here, mask=real, other=0.0).to(tl.float32)
            shifts = tl.load(shift + here, mask=real, other=0.0).to(tl.float32)
        if BITS == 4:
            v0 = _nibble_value(w0, j, ASM)
            v1 = _nibble_value(w1, j, ASM)
            v2 = _nibble_value(w2, j, ASM)
            v3 = _nibble_value(w3, j, ASM)
        new_totals, new_plains, new_addeds = (), (), ()
        for m in tl.static_range(M):
            total, plain, added = totals[m], plains[m], addeds[m]
            part = tl.load(x + m * K + here, mask=real, other=0.0).to(tl.float32)
            if NORM:
                part = (part - means[m]) * rates[m] * gains + shifts
            if BITS == 4:
                total, plain, added = _four_nibbles(total, plain, added, part, v0, v1, v2, v3, j)
            elif j == 0:
                total, added = _eight_bytes(total, added, part, w0, w1, ASM)
            else:
                total, added = _eight_bytes(total, added, part, w2, w3, ASM)
            new_totals = new_totals + (total,)
            new_plains = new_plains + (plain,)
            new_addeds = new_addeds + (added,)
        totals, plains, addeds = new_totals, new_plains, new_addeds
    found = ()
    for m in tl.static_range(M):
        if BITS == 4:
            step = (steps << 16).to(tl.float32, bitcast=True)
            least = (steps & -65536).to(tl.float32, bitcast=True)
            sums = tl.sum((totals[m] - addeds[m][:, None]) * step + plains[m][:, None] * least, axis=0)
        else:
            sums = tl.sum(totals[m] - 1.5 * addeds[m][:, None], axis=0) * (256.0 * steps)
        found = found + (sums,)
    return found


@triton.jit
def _finish(total, other, m, rows, out, N, ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr):
    # total, [BN], is row m of the result; rounded where the plain computation has a tensor.
    TYPE: tl.constexpr = out.dtype.element_ty
    total = _activated(total.to(TYPE).to(tl.float32), ACTIVATION)
    if RESIDUAL:
        total = total.to(TYPE).to(tl.float32) + other
    tl.store(out + m * N + rows, total.to(TYPE), mask=rows < N)


@triton.jit
def _all(
    x, matrix, scales, rows, N,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, KIND: tl.constexpr, EARLY: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    # Tokens times some rows of a matrix on tensor cores, [MP, BN].
    if KIND == "groups":
        GC: tl.constexpr = BK // 16
        words, pairs = _chunk(matrix, scales, rows, N, 0, K, GC)
        later_words, later_pairs = words, pairs
        if K > 128 * GC:
            later_words, later_pairs = _chunk(matrix, scales, rows, N, 1, K, GC)
        if EARLY:
            tl.extra.cuda.gdc_wait()
        total = tl.trans(
            _grouped(x, words, pairs, later_words, later_pairs, matrix, scales, rows, N, K, M, MP, BN, GC, ASM)
        )
    else:
        if EARLY:
            tl.extra.cuda.gdc_wait()
        total = _many(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, ASM)
    return total


@triton.jit
def quantized_product_kernel(
    x, gain, shift, eps, matrix, scales, bias, residual, out, N,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, ACTIVATION: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, EARLY: tl.constexpr, AHEAD: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out[M, N] = activation(norm(x)[M, K] @ matrix[N, K].T + bias) + residual."""
    TYPE: tl.constexpr = out.dtype.element_ty
    WIDTH: tl.constexpr = matrix.dtype.element_ty.primitive_bitwidth // 8
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    if AHEAD:
        later = (tl.program_id(0) + AHEAD) * BN
        if later + BN <= N:
            _bring(matrix + later.to(tl.int64) * (K * BITS // (8 * WIDTH)), BN * K * BITS // 8)
    added = tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32) if BIAS else tl.zeros([BN], tl.float32)
    if KIND == "words":
        words, steps = _held(matrix, scales, rows, N, K, G, BITS, BK)
        if EARLY:
            tl.extra.cuda.gdc_wait()
        # Under way while the product is computed.
        others = ()
        for m in tl.static_range(M):
            if RESIDUAL:
                others = others + (tl.load(residual + m * N + rows, mask=rows < N, other=0.0).to(tl.float32),)
            else:
                others = others + (added,)
        found = _few(x, gain, shift, eps, words, steps, K, G, BITS, M, NORM, ASM)
        for m in tl.static_range(M):
            _finish(found[m] + added, others[m], m, rows, out, N, ACTIVATION, RESIDUAL)
    else:
        total = _all(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, KIND, EARLY, ASM) + added[None, :]
        total = _activated(total.to(TYPE).to(tl.float32), ACTIVATION)
        index = tl.arange(0, MP)
        places = index[:, None] * N + rows[None, :]
        inside = (index < M)[:, None] & (rows < N)[None, :]
        if RESIDUAL:
            total = total.to(TYPE).to(tl.float32) + tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + places, total.to(TYPE), mask=inside)


@triton.jit
def quantized_projection_kernel(
    x, gain, shift, eps,
    query_matrix, key_matrix, value_matrix, query_scales, key_scales, value_scales, query_bias, key_bias, value_bias,
    query, keys, values, now, N, CAPACITY, K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr,
    MP: tl.constexpr, LANES: tl.constexpr, D: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr,
    NORM: tl.constexpr, EARLY: tl.constexpr, AHEAD: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Queries of norm(x)[M, K] into query[M, N]; keys and values into their slots of a cache [B, H, capacity, D]."""
    TYPE: tl.constexpr = query.dtype.element_ty
    blocks = tl.cdiv(N, BN)
    which = tl.program_id(0) // blocks
    rows = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    if which == 0:
        matrix, scales, bias = query_matrix, query_scales, query_bias
    elif which == 1:
        matrix, scales, bias = key_matrix, key_scales, key_bias
    else:
        matrix, scales, bias = value_matrix, value_scales, value_bias
    if AHEAD:
        BYTES: tl.constexpr = BN * K * BITS // 8
        later = tl.program_id(0) + AHEAD
        start = (later % blocks).to(tl.int64) * (BYTES * 8 // query_matrix.dtype.element_ty.primitive_bitwidth)
        if later < blocks:
            _bring(query_matrix + start, BYTES)
        elif later < 2 * blocks:
            _bring(key_matrix + start, BYTES)
        elif later < 3 * blocks:
            _bring(value_matrix + start, BYTES)
    added = tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)
    if KIND == "words":
        words, steps = _held(matrix, scales, rows, N, K, G, BITS, BK)
        if EARLY:
            tl.extra.cuda.gdc_wait()
        found = _few(x, gain, shift, eps, words, steps, K, G, BITS, M, NORM, ASM)
        for m in tl.static_range(M):
            total = (found[m] + added).to(TYPE)
            if which == 0:
                tl.store(query + m * N + rows, total, mask=rows < N)
            else:
                slot = tl.load(now + m % LANES)
                places = (((m // LANES) * (N // D) + rows // D).to(tl.int64) * CAPACITY + slot) * D + rows % D
                if which == 1:
                    tl.store(keys + places, total, mask=rows < N)
                else:
                    tl.store(values + places, total, mask=rows < N)
    else:
        index = tl.arange(0, MP)
        total = _all(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, KIND, EARLY, ASM)
        total = (total + added[None, :]).to(TYPE)
        inside = (index < M)[:, None] & (rows < N)[None, :]
        if which == 0:
            tl.store(query + index[:, None] * N + rows[None, :], total, mask=inside)
        else:
            slots = tl.load(now + index % LANES)
            heads = (index // LANES)[:, None] * (N // D) + (rows // D)[None, :]
            places = (heads.to(tl.int64) * CAPACITY + slots[:, None]) * D + (rows % D)[None, :]
            if which == 1:
                tl.store(keys + places, total, mask=inside)
            else:
                tl.store(values + places, total, mask=inside)
