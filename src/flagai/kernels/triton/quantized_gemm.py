"""Several tokens times rows of 8 or 4 bits, on tensor cores: ``gemm`` and ``grouped_gemm`` of :mod:`.quantized`."""

import triton
import triton.language as tl

from flagai.kernels.triton.unpack import dequantized, nibble_to_half


@triton.jit
def gemm(
    x, matrix, scales, rows, N,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Many tokens times some rows of a matrix, [MP, BN], on tensor cores."""
    TYPE: tl.constexpr = x.dtype.element_ty
    index = tl.arange(0, MP)
    wide = rows.to(tl.int64)[:, None]
    total = tl.zeros([MP, BN], dtype=tl.float32)
    if BITS == 4:
        W: tl.constexpr = K // 8
        EIGHTH: tl.constexpr = G // 8
        for start in range(0, W, BK):
            places = start + tl.arange(0, BK)
            inside = (rows < N)[:, None]
            if W % BK != 0:
                inside &= (places < W)[None, :]
            words = tl.load(matrix + wide * W + places[None, :], mask=inside, other=0, eviction_policy="evict_first")
            groups = places // EIGHTH
            pairs = tl.load(scales + wide * (K // G) + groups[None, :], mask=inside, other=0)
            real = (index < M)[:, None]
            if W % BK != 0:
                real &= (places < W)[None, :]
            begin = groups * G + places % EIGHTH
            for j in tl.static_range(8):
                here = begin + j * EIGHTH
                tokens = tl.load(x + index[:, None] * K + here[None, :], mask=real, other=0.0)
                total = tl.dot(tokens, tl.trans(dequantized(words, pairs, j, TYPE, ASM)), total)
    else:
        for start in range(0, K, BK):
            places = start + tl.arange(0, BK)
            inside = (rows < N)[:, None]
            real = (index < M)[:, None]
            if K % BK != 0:
                inside &= (places < K)[None, :]
                real &= (places < K)[None, :]
            numbers = tl.load(matrix + wide * K + places[None, :], mask=inside, other=0, eviction_policy="evict_first")
            tokens = tl.load(x + index[:, None] * K + places[None, :], mask=real, other=0.0)
            total = tl.dot(tokens, tl.trans(numbers.to(TYPE)), total)
        total *= tl.load(scales + rows, mask=rows < N, other=0.0)[None, :]
    return total


@triton.jit
def load_groups(matrix, scales, rows, N, c, K: tl.constexpr, GC: tl.constexpr):
    """Words [GC, BN, 16] and pairs [GC, BN] of some rows' c-th GC groups of 128."""
    GROUPS: tl.constexpr = K // 128
    groups = c * GC + tl.arange(0, GC)
    wide = rows.to(tl.int64)
    real = (groups < GROUPS)[:, None] & (rows < N)[None, :]
    places = (wide * (K // 8))[None, :, None] + (groups * 16)[:, None, None] + tl.arange(0, 16)[None, None, :]
    words = tl.load(matrix + places, mask=real[:, :, None], other=0, eviction_policy="evict_first")
    pairs = tl.load(scales + (wide * GROUPS)[None, :] + groups[:, None], mask=real, other=0)
    return words, pairs


@triton.jit
def _slab(x, part, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, GC: tl.constexpr):
    # Of the tokens, what meets one nibble of a chunk's words, [GC, 16, MP]; part counts nibbles, chunk after chunk.
    groups = (part // 8) * GC + tl.arange(0, GC)
    index = tl.arange(0, MP)
    columns = (groups * 128 + (part % 8) * 16)[:, None, None] + tl.arange(0, 16)[None, :, None]
    real = (index < M)[None, None, :] & (groups < K // 128)[:, None, None]
    return tl.load(x + columns + (index * K)[None, None, :], mask=real, other=0.0)


@triton.jit
def grouped_gemm(
    x, words, pairs, next_words, next_pairs, matrix, scales, rows, N,
    K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, GC: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Tokens times some rows of a matrix, [BN, MP]; the first two chunks of the rows are held already."""
    TYPE: tl.constexpr = x.dtype.element_ty
    PARTS: tl.constexpr = 8 * ((K // 128 + GC - 1) // GC)
    AHEAD: tl.constexpr = 2
    total = tl.zeros([GC, BN, MP], dtype=tl.float32)
    ones = tl.full([GC, BN, 16], 1.0, dtype=TYPE)
    slabs = ()
    for part in tl.static_range(AHEAD):
        slabs = slabs + (_slab(x, part, K, M, MP, GC),)
    product = tl.zeros([GC, BN, MP], dtype=tl.float32)
    sums = tl.zeros([GC, BN, MP], dtype=tl.float32)
    for part in tl.static_range(PARTS):
        if part + AHEAD < PARTS:
            slabs = slabs + (_slab(x, part + AHEAD, K, M, MP, GC),)
        product = tl.dot(nibble_to_half(words, part % 8, TYPE, ASM), slabs[part], product)
        sums = tl.dot(ones, slabs[part], sums)
        if part % 8 == 7:
            step = (pairs << 16).to(tl.float32, bitcast=True)
            least = (pairs & -65536).to(tl.float32, bitcast=True)
            total += product * step[:, :, None] + sums * (least - 128.0 * step)[:, :, None]
            product = tl.zeros([GC, BN, MP], dtype=tl.float32)
            sums = tl.zeros([GC, BN, MP], dtype=tl.float32)
            if part + 8 < PARTS:
                words, pairs = next_words, next_pairs
            if part + 16 < PARTS:
                next_words, next_pairs = load_groups(matrix, scales, rows, N, part // 8 + 2, K, GC)
    return tl.sum(total, axis=0)
