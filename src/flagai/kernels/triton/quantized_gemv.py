"""A few tokens times rows of 8 or 4 bits, on ordinary cores: ``gemv`` of :mod:`~flagai.kernels.triton.quantized`.

Every thread holds 16 bytes (a unit) of each of the program's rows in registers, all loaded before the tokens are there,
and multiplies them one by one. The order of dimensions of a tile, units first, decides that Triton lets neighbouring
threads read neighbouring units, and that only sums are exchanged between threads.
"""

import triton
import triton.language as tl

from flagai.kernels.triton.unpack import (
    byte_to_float,
    fma_nibbles,
    pair_halves,
    split8,
    split16,
    sum_halves,
    weight_positions,
)


@triton.jit
def load_tile(
    matrix, scales, rows, N,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, BU: tl.constexpr,
):  # fmt: skip
    """Some rows of a matrix as words, [BU, BN, 4], and their scales: of 4 bits for each unit, of 8 for each row."""
    U: tl.constexpr = K * BITS // 128
    BN: tl.constexpr = rows.shape[0]
    wide = tl.minimum(rows, N - 1).to(tl.int64)  # what stands in for missing rows is not stored
    units = tl.arange(0, BU)
    places = tl.arange(0, 4 * BU)
    # Read once and never again: first to leave the caches, where the tokens stay. Along one dimension, words of a row
    # are neighbours whatever order the compiler gives to others, and neighbouring threads read them.
    words = tl.load(
        matrix + (wide * (4 * U))[None, :] + places[:, None],
        mask=None if U == BU else (places < 4 * U)[:, None],
        eviction_policy="evict_first",
    )
    words = tl.permute(tl.reshape(words, [BU, 4, BN]), [0, 2, 1])
    if BITS == 4:
        steps = tl.load(
            scales + (wide * (K // G))[None, :] + (units // (G // 32))[:, None],
            mask=None if U == BU else (units < U)[:, None],
        )
    else:
        steps = tl.load(scales + wide)
    return words, steps


@triton.jit
def _numbers(places, units, U: tl.constexpr):
    # Numbers that U units meet, in float32; 0 for those that are none.
    if U == units.shape[0]:
        found = tl.load(places)
    else:
        found = tl.load(places, mask=(units < U)[:, None], other=0.0)
    return found.to(tl.float32)


@triton.jit
def _token(x, units, K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr):
    # A token by the parts of units that its numbers meet: 8 of [BU, 4], or 2 of [BU, 8].
    parts = ()
    for j in tl.static_range(8 if BITS == 4 else 2):
        parts = parts + (_numbers(x + weight_positions(units, j, G, BITS), units, K * BITS // 128),)
    return parts


@triton.jit
def _paired_token(parts, ASM: tl.constexpr):
    # What nibbles meet: 16 words with pairs of float16; what their products must be multiplied by; the plain sum.
    BU: tl.constexpr = parts[0].shape[0]
    most = tl.zeros([BU], dtype=tl.float32)
    plain = tl.zeros([BU], dtype=tl.float32)
    for j in tl.static_range(8):
        most = tl.maximum(most, tl.max(tl.abs(parts[j]), axis=1))
        plain += tl.sum(parts[j], axis=1)
    # The largest number of a unit becomes one of [2 ** 14, 2 ** 15), by a power of two.
    exponent = tl.minimum(tl.maximum(most.to(tl.int32, bitcast=True) >> 23, 24), 244)
    factor = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    back = ((exponent + 10) << 23).to(tl.float32, bitcast=True)  # nibbles are worth 2 ** -24 each
    even, odd = factor[:, None], (factor * 0.0625)[:, None]
    a0, a1, a2, a3 = split8(pair_halves(parts[0] * even, parts[4] * even, ASM))
    b0, b1, b2, b3 = split8(pair_halves(parts[1] * odd, parts[5] * odd, ASM))
    c0, c1, c2, c3 = split8(pair_halves(parts[2] * even, parts[6] * even, ASM))
    d0, d1, d2, d3 = split8(pair_halves(parts[3] * odd, parts[7] * odd, ASM))
    return a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, back, plain


@triton.jit
def _times_nibbles(token, words, steps, ASM: tl.constexpr):
    # A token times rows of 4 bits, [BN]: nibbles become float16 without conversion, two at once; sums are float32.
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, back, plain = token
    w0, w1, w2, w3 = split8(words)
    total = tl.zeros([words.shape[0], words.shape[1]], dtype=tl.int32 if ASM else tl.float32)
    total = fma_nibbles(total, w0, a0, b0, c0, d0, ASM)
    total = fma_nibbles(total, w1, a1, b1, c1, d1, ASM)
    total = fma_nibbles(total, w2, a2, b2, c2, d2, ASM)
    total = fma_nibbles(total, w3, a3, b3, c3, d3, ASM)
    step = (steps << 16).to(tl.float32, bitcast=True)
    least = (steps & -65536).to(tl.float32, bitcast=True)
    return tl.sum(sum_halves(total, ASM) * (step * back[:, None]) + plain[:, None] * least, axis=0)


@triton.jit
def _eight_bytes(total, added, part, first, second, ASM: tl.constexpr):
    # The bytes of two words meet eight numbers of a token, part [BU, 8].
    even, odd = split16(part)
    x0, x2, x4, x6 = split8(even)
    x1, x3, x5, x7 = split8(odd)
    added += (x0 + x1 + x2 + x3) + (x4 + x5 + x6 + x7)
    total += _four_bytes(first, x0, x1, x2, x3, ASM)
    total += _four_bytes(second, x4, x5, x6, x7, ASM)
    return total, added


@triton.jit
def _four_bytes(word, x0, x1, x2, x3, ASM: tl.constexpr):
    total = byte_to_float(word, 0, ASM) * x0[:, None]
    total += byte_to_float(word, 1, ASM) * x1[:, None]
    total += byte_to_float(word, 2, ASM) * x2[:, None]
    total += byte_to_float(word, 3, ASM) * x3[:, None]
    return total


@triton.jit
def _times_bytes(parts, words, steps, ASM: tl.constexpr):
    # A token times rows of 8 bits, [BN].
    w0, w1, w2, w3 = split8(words)
    total = tl.zeros([words.shape[0], words.shape[1]], dtype=tl.float32)
    added = tl.zeros([words.shape[0]], dtype=tl.float32)
    total, added = _eight_bytes(total, added, parts[0], w0, w1, ASM)
    total, added = _eight_bytes(total, added, parts[1], w2, w3, ASM)
    return tl.sum(total - 1.5 * added[:, None], axis=0) * (256.0 * steps)


@triton.jit
def load_tokens(
    x, K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, BU: tl.constexpr, ASM: tl.constexpr
):  # fmt: skip
    """Tokens, as rows that are held meet them."""
    units = tl.arange(0, BU)
    found = ()
    for m in tl.static_range(M):
        parts = _token(x + m * K, units, K, G, BITS)
        if BITS == 4:
            found = found + (_paired_token(parts, ASM),)
        else:
            found = found + (parts,)
    return found


@triton.jit
def gemv(tokens, words, steps, BITS: tl.constexpr, M: tl.constexpr, ASM: tl.constexpr):
    """Tokens times the rows that are held: M of [BN]."""
    found = ()
    for m in tl.static_range(M):
        if BITS == 4:
            found = found + (_times_nibbles(tokens[m], words, steps, ASM),)
        else:
            found = found + (_times_bytes(tokens[m], words, steps, ASM),)
    return found
