"""Triton kernels of a decoding step for weights of 8 and 4 bits.

:mod:`flagai.model.layer.quantized_linear` describes their layout.

There are three ways (``KIND``). In all of them numbers become floats without conversions, which are slow: they are
floats by the bits that they have, or their bits are put into the mantissa of a constant, which is taken off in the end.

``words``: for few tokens, in registers; see :mod:`~flagai.kernels.triton.quantized_gemv`.

``groups``: four bits in groups of 128, on tensor cores. Rows of weights are held likewise; each group is a matrix
product of its own, whose result is multiplied by the group's step. Products with ones give what has to be taken off.

``tiles``: any number of tokens and any groups, on tensor cores, from weights that are widened on the way.
"""

import triton
import triton.language as tl

from flagai.kernels.triton.decode import _activated
from flagai.kernels.triton.quantized_gemm import _chunk, _grouped, _many
from flagai.kernels.triton.quantized_gemv import _held, _times_words, _tokens


@triton.jit
def _finish(
    tokens, words, steps, rows, bias, residual, out, N,
    BITS: tl.constexpr, M: tl.constexpr, ACTIVATION: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    # The outputs of some rows that are held as words; rounded where the plain computation has a tensor.
    TYPE: tl.constexpr = out.dtype.element_ty
    inside = rows < N
    # Under way while the product is computed.
    added = tl.load(bias + rows, mask=inside, other=0.0).to(tl.float32) if BIAS else 0.0
    others = ()
    if RESIDUAL:
        for m in tl.static_range(M):
            others = others + (tl.load(residual + m * N + rows, mask=inside, other=0.0).to(tl.float32),)
    found = _times_words(tokens, words, steps, BITS, M, ASM)
    for m in tl.static_range(M):
        total = _activated((found[m] + added).to(TYPE).to(tl.float32), ACTIVATION)
        if RESIDUAL:
            total = total.to(TYPE).to(tl.float32) + others[m]
        tl.store(out + m * N + rows, total.to(TYPE), mask=inside)


@triton.jit
def _place(
    tokens, words, steps, which, rows, bias, query, keys, values, now, N, CAPACITY,
    BITS: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, D: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    # The queries, keys or values (which: 0, 1, 2) of rows that are held as words, to where they belong.
    TYPE: tl.constexpr = query.dtype.element_ty
    inside = rows < N
    added = tl.load(bias + rows, mask=inside, other=0.0).to(tl.float32)
    found = _times_words(tokens, words, steps, BITS, M, ASM)
    for m in tl.static_range(M):
        total = (found[m] + added).to(TYPE)
        if which == 0:
            tl.store(query + m * N + rows, total, mask=inside)
        else:
            slot = tl.load(now + m % LANES)
            places = (((m // LANES) * (N // D) + rows // D).to(tl.int64) * CAPACITY + slot) * D + rows % D
            if which == 1:
                tl.store(keys + places, total, mask=inside)
            else:
                tl.store(values + places, total, mask=inside)


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
    x, matrix, scales, bias, residual, out, N,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, KIND: tl.constexpr, ACTIVATION: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, EARLY: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out[M, N] = activation(x[M, K] @ matrix[N, K].T + bias) + residual."""
    TYPE: tl.constexpr = out.dtype.element_ty
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    if KIND == "words":
        words, steps = _held(matrix, scales, rows, N, K, G, BITS, BK)
        if EARLY:
            tl.extra.cuda.gdc_wait()
        tokens = _tokens(x, K, G, BITS, M, BK, ASM)
        _finish(tokens, words, steps, rows, bias, residual, out, N, BITS, M, ACTIVATION, BIAS, RESIDUAL, ASM)
    else:
        total = _all(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, KIND, EARLY, ASM)
        if BIAS:
            total += tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)[None, :]
        total = _activated(total.to(TYPE).to(tl.float32), ACTIVATION)
        index = tl.arange(0, MP)
        places = index[:, None] * N + rows[None, :]
        inside = (index < M)[:, None] & (rows < N)[None, :]
        if RESIDUAL:
            total = total.to(TYPE).to(tl.float32) + tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + places, total.to(TYPE), mask=inside)


@triton.jit
def quantized_projection_kernel(
    x, query_matrix, key_matrix, value_matrix, query_scales, key_scales, value_scales, query_bias, key_bias, value_bias,
    query, keys, values, now, N, CAPACITY, K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr,
    MP: tl.constexpr, LANES: tl.constexpr, D: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr,
    EARLY: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Queries of x[M, K] into query[M, N]; keys and values into their slots of a cache [B, H, capacity, D]."""
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
    if KIND == "words":
        words, steps = _held(matrix, scales, rows, N, K, G, BITS, BK)
        if EARLY:
            tl.extra.cuda.gdc_wait()
        tokens = _tokens(x, K, G, BITS, M, BK, ASM)
        _place(tokens, words, steps, which, rows, bias, query, keys, values, now, N, CAPACITY, BITS, M, LANES, D, ASM)
    else:
        index = tl.arange(0, MP)
        total = _all(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, KIND, EARLY, ASM)
        total = (total + tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)[None, :]).to(TYPE)
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
