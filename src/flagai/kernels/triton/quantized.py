"""Triton kernels of a decoding step for weights of 8 and 4 bits.

:mod:`flagai.model.layer.quantized_linear` describes their layout.

There are three ways (``KIND``). In all of them numbers become floats without conversions, which are slow: they are
floats by the bits that they have, or their bits are put into the mantissa of a constant, which is taken off in the end.

``gemv``: for few tokens, in registers; see :mod:`~flagai.kernels.triton.quantized_gemv`.

``grouped_gemm``: 4 bits in groups of 128, on tensor cores. Rows of weights are held likewise; each group is a matrix
product of its own, whose result is multiplied by the group's step. Products with ones give what has to be taken off.

``gemm``: any number of tokens and any groups, on tensor cores, from weights that are dequantized on the way.
"""

import triton
import triton.language as tl

from flagai.kernels.triton.decode import apply_activation, store_qkv
from flagai.kernels.triton.quantized_gemm import gemm, grouped_gemm, load_groups
from flagai.kernels.triton.quantized_gemv import gemv, load_tile, load_tokens


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
    found = gemv(tokens, words, steps, BITS, M, ASM)
    for m in tl.static_range(M):
        total = apply_activation((found[m] + added).to(TYPE).to(tl.float32), ACTIVATION)
        if RESIDUAL:
            total = total.to(TYPE).to(tl.float32) + others[m]
        tl.store(out + m * N + rows, total.to(TYPE), mask=inside)


@triton.jit
def _place(
    tokens, words, steps, which, rows, bias, query, keys, values, slot_mapping, N,
    BITS: tl.constexpr, M: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    # The queries, keys or values (which: 0, 1, 2) of rows that are held as words, to where they belong.
    TYPE: tl.constexpr = query.dtype.element_ty
    inside = rows < N
    added = tl.load(bias + rows, mask=inside, other=0.0).to(tl.float32)
    found = gemv(tokens, words, steps, BITS, M, ASM)
    for m in tl.static_range(M):
        total = (found[m] + added).to(TYPE)
        if which == 0:
            tl.store(query + m * N + rows, total, mask=inside)
        else:
            places = tl.load(slot_mapping + m) * N + rows
            if which == 1:
                tl.store(keys + places, total, mask=inside)
            else:
                tl.store(values + places, total, mask=inside)


@triton.jit
def _all(
    x, matrix, scales, rows, N,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, KIND: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    # Tokens times some rows of a matrix on tensor cores, [MP, BN].
    if KIND == "grouped_gemm":
        GC: tl.constexpr = BK // 16
        words, pairs = load_groups(matrix, scales, rows, N, 0, K, GC)
        later_words, later_pairs = words, pairs
        if K > 128 * GC:
            later_words, later_pairs = load_groups(matrix, scales, rows, N, 1, K, GC)
        if PDL:
            tl.extra.cuda.gdc_wait()
        total = tl.trans(
            grouped_gemm(x, words, pairs, later_words, later_pairs, matrix, scales, rows, N, K, M, MP, BN, GC, ASM)
        )
    else:
        if PDL:
            tl.extra.cuda.gdc_wait()
        total = gemm(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, ASM)
    return total


@triton.jit
def quantized_linear_act_residual_kernel(
    x, matrix, scales, bias, residual, out, N,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, KIND: tl.constexpr, ACTIVATION: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out[M, N] = activation(x[M, K] @ matrix[N, K].T + bias) + residual."""
    TYPE: tl.constexpr = out.dtype.element_ty
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    if KIND == "gemv":
        words, steps = load_tile(matrix, scales, rows, N, K, G, BITS, BK)
        if PDL:
            tl.extra.cuda.gdc_wait()
        tokens = load_tokens(x, K, G, BITS, M, BK, ASM)
        _finish(tokens, words, steps, rows, bias, residual, out, N, BITS, M, ACTIVATION, BIAS, RESIDUAL, ASM)
    else:
        total = _all(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, KIND, PDL, ASM)
        if BIAS:
            total += tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)[None, :]
        total = apply_activation(total.to(TYPE).to(tl.float32), ACTIVATION)
        index = tl.arange(0, MP)
        places = index[:, None] * N + rows[None, :]
        inside = (index < M)[:, None] & (rows < N)[None, :]
        if RESIDUAL:
            total = total.to(TYPE).to(tl.float32) + tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + places, total.to(TYPE), mask=inside)


@triton.jit
def quantized_qkv_to_cache_kernel(
    x, query_matrix, key_matrix, value_matrix, query_scales, key_scales, value_scales, query_bias, key_bias, value_bias,
    query, keys, values, slot_mapping, N, K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr,
    MP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Queries of x[M, K] into query[M, N]; keys and values into their slots of pools [slots, N]."""
    TYPE: tl.constexpr = query.dtype.element_ty
    blocks = tl.cdiv(N, BN)
    which = tl.program_id(0) // blocks
    rows = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    if which == 0:
        matrix, scales, bias = query_matrix, query_scales, query_bias
    elif which == 1:
        matrix, scales, bias = key_matrix, key_scales, key_bias
    else:
        matrix, scales, bias = value_matrix, value_scales, value_bias
    if KIND == "gemv":
        words, steps = load_tile(matrix, scales, rows, N, K, G, BITS, BK)
        if PDL:
            tl.extra.cuda.gdc_wait()
        tokens = load_tokens(x, K, G, BITS, M, BK, ASM)
        _place(tokens, words, steps, which, rows, bias, query, keys, values, slot_mapping, N, BITS, M, ASM)
    else:
        total = _all(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, KIND, PDL, ASM)
        total += tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)[None, :]
        store_qkv(total.to(TYPE), which, tl.arange(0, MP), rows, query, keys, values, slot_mapping, N, M)
