"""A Triton kernel of a decoding step for weights of four bits in groups of 128, by programs that stay.

There is a program or two for each multiprocessor, and it takes one tile of rows after the other: while one is computed,
the next ones are on their way into a ring of buffers. The tokens stay with it. Tensor cores multiply: each group is a
product of its own, whose result is multiplied by the group's step; numbers become 128 and more in bfloat16 by their
bits, and the sum of the tokens' numbers tells what that adds.
"""

import triton
import triton.language as tl

from flagai.model.layer.triton_kernels import _activated
from flagai.model.layer.triton_quantized import _bring, _raised


@triton.jit
def _slab(x, c, j: tl.constexpr, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, GC: tl.constexpr):
    # Of the tokens, what meets nibble j of the words of chunk c, [GC, 16, MP]; one token, [GC, 16, 1].
    groups = c * GC + tl.arange(0, GC)
    places = (groups * 128 + j * 16)[:, None, None] + tl.arange(0, 16)[None, :, None]
    if M == 1:
        found = tl.load(x + places)
    else:
        index = tl.arange(0, MP)
        found = tl.load(x + places + (index * K)[None, None, :], mask=(index < M)[None, None, :], other=0.0)
    return found


@triton.jit
def _widely(slab, M: tl.constexpr, MP: tl.constexpr):
    # One token goes into all columns: what the others compute is not used.
    if M == 1:
        slab = tl.broadcast_to(slab, [slab.shape[0], 16, MP])
    return slab


@triton.jit
def _moments(slabs, eps, K: tl.constexpr):
    # Each token's mean, and one over its deviation, [MP or 1].
    sums = slabs[0].to(tl.float32)
    squares = sums * sums
    for j in tl.static_range(1, 8):
        more = slabs[j].to(tl.float32)
        sums += more
        squares += more * more
    mean = tl.sum(tl.sum(sums, axis=0), axis=0) / K
    square = tl.sum(tl.sum(squares, axis=0), axis=0) / K
    return mean, 1.0 / tl.sqrt(square - mean * mean + eps)


@triton.jit
def _part(vector, j: tl.constexpr, GC: tl.constexpr):
    # What of a vector belongs to the slab of nibble j, [GC, 16, 1].
    places = (tl.arange(0, GC) * 128 + j * 16)[:, None, None] + tl.arange(0, 16)[None, :, None]
    return tl.load(vector + places).to(tl.float32)


@triton.jit
def ring_kernel(
    x, gain, shift, eps,
    matrix, scales, bias, key_matrix, key_scales, key_bias, value_matrix, value_scales, value_bias,
    residual, out, keys, values, now, N, CAPACITY,
    K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, GC: tl.constexpr, STAGES: tl.constexpr,
    NORM: tl.constexpr, PROJECT: tl.constexpr, LANES: tl.constexpr, D: tl.constexpr, ACTIVATION: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, EARLY: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """out[M, N] = activation(norm(x)[M, K] @ matrix[N, K].T + bias) + residual.

    With ``PROJECT``, three matrices are taken: ``key_matrix`` and the like say how far from the first one the others
    lie; their results go into the slots of a cache.
    """
    TYPE: tl.constexpr = x.dtype.element_ty
    W: tl.constexpr = K // 8
    GROUPS: tl.constexpr = K // 128
    CHUNKS: tl.constexpr = GROUPS // GC
    each = tl.cdiv(N, BN)
    tiles = each * (3 if PROJECT else 1)
    first, step = tl.program_id(0), tl.num_programs(0)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        for ahead in tl.static_range(STAGES):
            tile = first + ahead * step
            if tile < tiles and (tile % each + 1) * BN <= N:
                begin = (tile % each).to(tl.int64) * (BN * W)
                if PROJECT:
                    begin += tl.where(tile < each, 0, tl.where(tile < 2 * each, key_matrix, value_matrix))
                _bring(matrix + begin, BN * W * 4)
        tl.extra.cuda.gdc_wait()
    index = tl.arange(0, MP)
    ones = tl.full([GC, BN, 16], 1.0, dtype=TYPE)
    zeros = tl.zeros([GC, BN, MP], dtype=tl.float32)
    sums = zeros
    slabs = ()
    if CHUNKS == 1:
        for j in tl.static_range(8):
            slabs = slabs + (_slab(x, 0, j, K, M, MP, GC),)
        if NORM:
            mean, rate = _moments(slabs, eps, K)
            normed = ()
            for j in tl.static_range(8):
                bare = (slabs[j].to(tl.float32) - mean[None, None, :]) * rate[None, None, :]
                normed = normed + ((bare * _part(gain, j, GC) + _part(shift, j, GC)).to(TYPE),)
            slabs = normed
        for j in tl.static_range(8):
            sums = tl.dot(ones, _widely(slabs[j], M, MP), sums)
    total = zeros
    for number in tl.range(0, tl.cdiv(tiles - first, step) * CHUNKS, num_stages=STAGES):
        tile = first + (number // CHUNKS) * step
        chunk = number % CHUNKS
        which = tile // each
        rows = (tile % each) * BN + tl.arange(0, BN)
        real = rows < N
        wide = rows.to(tl.int64)
        groups = chunk * GC + tl.arange(0, GC)
        places = (wide * W)[None, :, None] + (groups * 16)[:, None, None] + tl.arange(0, 16)[None, None, :]
        steps = (wide * GROUPS)[None, :] + groups[:, None]
        if PROJECT:
            places += tl.where(which == 0, 0, tl.where(which == 1, key_matrix, value_matrix))
            steps += tl.where(which == 0, 0, tl.where(which == 1, key_scales, value_scales))
        words = tl.load(matrix + places, mask=real[None, :, None], other=0)
        pairs = tl.load(scales + steps, mask=real[None, :], other=0)
        product = zeros
        if CHUNKS > 1:
            sums = zeros
        for j in tl.static_range(8):
            if CHUNKS == 1:
                product = tl.dot(_raised(words, j, TYPE, ASM), _widely(slabs[j], M, MP), product)
            else:
                slab = _widely(_slab(x, chunk, j, K, M, MP, GC), M, MP)
                product = tl.dot(_raised(words, j, TYPE, ASM), slab, product)
                sums = tl.dot(ones, slab, sums)
        size = (pairs << 16).to(tl.float32, bitcast=True)
        least = (pairs & -65536).to(tl.float32, bitcast=True)
        part = product * size[:, :, None] + sums * (least - 128.0 * size)[:, :, None]
        if CHUNKS == 1:
            total = part
        else:
            total += part
        if chunk == CHUNKS - 1:
            found = tl.sum(total, axis=0)
            total = zeros
            inside = real[:, None] & (index < M)[None, :]
            if BIAS:
                begin = rows
                if PROJECT:
                    begin = wide + tl.where(which == 0, 0, tl.where(which == 1, key_bias, value_bias))
                found += tl.load(bias + begin, mask=real, other=0.0).to(tl.float32)[:, None]
            # Rounded where the plain computation has a tensor.
            found = _activated(found.to(TYPE).to(tl.float32), ACTIVATION)
            plain = (index * N)[None, :] + rows[:, None]
            if RESIDUAL:
                found = found.to(TYPE).to(tl.float32) + tl.load(residual + plain, mask=inside, other=0.0).to(tl.float32)
            if PROJECT:
                slots = tl.load(now + index % LANES)
                heads = (index // LANES)[None, :] * (N // D) + (rows // D)[:, None]
                cached = (heads.to(tl.int64) * CAPACITY + slots[None, :]) * D + (rows % D)[:, None]
                if which == 0:
                    tl.store(out + plain, found.to(TYPE), mask=inside)
                elif which == 1:
                    tl.store(keys + cached, found.to(TYPE), mask=inside)
                else:
                    tl.store(values + cached, found.to(TYPE), mask=inside)
            else:
                tl.store(out + plain, found.to(TYPE), mask=inside)
