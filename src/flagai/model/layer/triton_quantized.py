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

# Two neighbouring words at once: their nibbles in the mantissas of 128 in bfloat16, less 128, times step, plus least.
_WIDEN = tl.constexpr(
    tuple(
        f"""{{
        .reg .b32 both, steps, least, one, less;
        mov.b32 one, 0x3F803F80;
        mov.b32 less, 0xC300C300;
        prmt.b32 both, $1, $2, {"0x5410" if place < 4 else "0x7632"};
        shr.u32 both, both, {4 * (place % 4)};
        lop3.b32 both, both, 0x000F000F, 0x43004300, 0xEA;
        fma.rn.bf16x2 both, both, one, less;
        prmt.b32 steps, $3, $4, 0x5410;
        prmt.b32 least, $3, $4, 0x7632;
        fma.rn.bf16x2 $0, both, steps, least;
        }}"""
        for place in range(8)
    )
)
# Two neighbouring words at once: their nibbles in the mantissas of 128 in bfloat16.
_RAISE = tl.constexpr(
    tuple(
        f"""{{
        .reg .b32 both;
        prmt.b32 both, $1, $2, {"0x5410" if place < 4 else "0x7632"};
        shr.u32 both, both, {4 * (place % 4)};
        lop3.b32 $0, both, 0x000F000F, 0x43004300, 0xEA;
        }}"""
        for place in range(8)
    )
)
# A number's bits into the mantissa of 1.0, in one instruction; the compiler would take two.
_INTO_ONE = tl.constexpr(tuple(f"lop3.b32 $0, $1, {15 << place:#x}, 0x3F800000, 0xEA;" for place in (11, 15, 19)))


@triton.jit
def _bring(rows, count: tl.constexpr):
    # Some bytes of a matrix into the second-level cache, by the program's first thread (compute capability 9).
    tl.inline_asm_elementwise(
        """{
        .reg .pred first;
        .reg .b32 place;
        mov.u32 place, %tid.x;
        setp.eq.u32 first, place, 0;
        @first cp.async.bulk.prefetch.L2.global [$1], $2;
        mov.u32 $0, 0;
        }""",
        "=r,l,r",
        [rows.to(tl.int64), count],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _halves(tile):
    # [..., 2 n] -> the numbers at even and at odd places, [..., n] each.
    return tl.split(tl.reshape(tile, tile.shape[:-1] + [tile.shape[-1] // 2, 2]))


@triton.jit
def _quarters(tile):
    # [..., 4] -> four of [...].
    even, odd = _halves(tile)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _nibble_value(word, J: tl.constexpr, ASM: tl.constexpr):
    # 1 + nibble J of a word times a power of two, which is 1 / _nibble_factor(J).
    BIT: tl.constexpr = 11 + 4 * ((J + 1) % 3)
    if J < 2:
        word = word << 15
    elif J < 5:
        word = word << 3
    else:
        word = word >> 9
    if ASM:
        bits = tl.inline_asm_elementwise(_INTO_ONE[(J + 1) % 3], "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1)
    else:
        bits = (word & (15 << BIT)) | 0x3F800000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _nibble_factor(J: tl.constexpr):
    return 2.0 ** (12 - 4 * ((J + 1) % 3))


@triton.jit
def _byte_value(word, J: tl.constexpr, ASM: tl.constexpr):
    # 1.5 + byte J of a word, which has a sign, divided by 256.
    if J < 2:
        word = word << (15 - 8 * J)
    else:
        word = word >> (8 * J - 15)
    if ASM:
        bits = tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, 0x7F8000, 0x3FC00000, 0x6A;", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        bits = (word & 0x7F8000) ^ 0x3FC00000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _places(units, J: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr):
    # Of the tokens' numbers that meet part J of each unit: 4 for nibble J of 4 words, or 8 for the bytes of 2 words.
    if BITS == 4:
        UNITS: tl.constexpr = G // 32  # of a group
        begin = (units // UNITS) * G + (units % UNITS) * 4 + J * (G // 8)
        places = begin[:, None] + tl.arange(0, 4)[None, :]
    else:
        places = (units * 16 + J * 8)[:, None] + tl.arange(0, 8)[None, :]
    return places


@triton.jit
def _both_sums(a, b, c, d):
    return a + c, b + d


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
        new_totals = ()
        new_plains = ()
        new_addeds = ()
        for m in tl.static_range(M):
            total, plain, added = totals[m], plains[m], addeds[m]
            part = tl.load(x + m * K + here, mask=real, other=0.0).to(tl.float32)
            if NORM:
                part = (part - means[m]) * rates[m] * gains + shifts
            if BITS == 4:
                x0, x1, x2, x3 = _quarters(part * _nibble_factor(j))
                together = (x0 + x1) + (x2 + x3)
                plain += together / _nibble_factor(j)
                added += together
                total += v0 * x0[:, None]
                total += v1 * x1[:, None]
                total += v2 * x2[:, None]
                total += v3 * x3[:, None]
            else:
                even, odd = _halves(part)
                x0, x2, x4, x6 = _quarters(even)
                x1, x3, x5, x7 = _quarters(odd)
                added += (x0 + x1 + x2 + x3) + (x4 + x5 + x6 + x7)
                if j == 0:
                    total += _four_bytes(w0, x0, x1, x2, x3, ASM)
                    total += _four_bytes(w1, x4, x5, x6, x7, ASM)
                else:
                    total += _four_bytes(w2, x0, x1, x2, x3, ASM)
                    total += _four_bytes(w3, x4, x5, x6, x7, ASM)
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
def _four_bytes(word, x0, x1, x2, x3, ASM: tl.constexpr):
    total = _byte_value(word, 0, ASM) * x0[:, None]
    total += _byte_value(word, 1, ASM) * x1[:, None]
    total += _byte_value(word, 2, ASM) * x2[:, None]
    total += _byte_value(word, 3, ASM) * x3[:, None]
    return total


@triton.jit
def _widened(word, pair, J: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    # Nibble J of each word times its group's step, plus the group's least value, rounded to TYPE once.
    if ASM and tl.bfloat16 == TYPE:
        return tl.inline_asm_elementwise(_WIDEN[J], "=r,r,r,r,r", [word, pair], dtype=tl.bfloat16, is_pure=True, pack=2)
    step = (pair << 16).to(tl.float32, bitcast=True)
    least = (pair & -65536).to(tl.float32, bitcast=True)
    return (((word >> (4 * J)) & 15).to(tl.float32) * step + least).to(TYPE)


@triton.jit
def _many(
    x, matrix, scales, rows, N,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    # Many tokens times some rows of a matrix, [MP, BN], on tensor cores.
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
                total = tl.dot(tokens, tl.trans(_widened(words, pairs, j, TYPE, ASM)), total)
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
def _chunk(matrix, scales, rows, N, c, K: tl.constexpr, GC: tl.constexpr):
    # Words [GC, BN, 16] and pairs [GC, BN] of some rows' c-th GC groups of 128.
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
def _raised(word, J: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    # 128 + nibble J of each word.
    if ASM and TYPE == tl.bfloat16:
        return tl.inline_asm_elementwise(_RAISE[J], "=r,r,r", [word], dtype=tl.bfloat16, is_pure=True, pack=2)
    return (((word >> (4 * J)) & 15).to(tl.float32) + 128.0).to(TYPE)


@triton.jit
def _grouped(
    x, words, pairs, next_words, next_pairs, matrix, scales, rows, N,
    K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, GC: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    # Tokens times some rows of a matrix, [BN, MP]; the first two chunks of the rows are held already.
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
        product = tl.dot(_raised(words, part % 8, TYPE, ASM), slabs[part], product)
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
                next_words, next_pairs = _chunk(matrix, scales, rows, N, part // 8 + 2, K, GC)
    return tl.sum(total, axis=0)


@triton.jit
def _finish(total, other, m, rows, out, N, ACTIVATION: tl.constexpr, RESIDUAL: tl.constexpr):
    # total, [BN], is row m of the result; rounded where the plain computation has a tensor.
    TYPE: tl.constexpr = out.dtype.element_ty
    total = _activated(total.to(TYPE).to(tl.float32), ACTIVATION)
    if RESIDUAL:
        total = total.to(TYPE).to(tl.float32) + other
    tl.store(out + m * N + rows, total.to(TYPE), mask=rows < N)


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
    if BIAS:
        added = tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)
    else:
        added = tl.zeros([BN], dtype=tl.float32)
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
    elif KIND == "groups":
        GC: tl.constexpr = BK // 16
        words, pairs = _chunk(matrix, scales, rows, N, 0, K, GC)
        later_words, later_pairs = words, pairs
        if K > 128 * GC:
            later_words, later_pairs = _chunk(matrix, scales, rows, N, 1, K, GC)
        if EARLY:
            tl.extra.cuda.gdc_wait()
        index = tl.arange(0, MP)
        places = (index * N)[None, :] + rows[:, None]
        inside = (rows < N)[:, None] & (index < M)[None, :]
        if RESIDUAL:
            other = tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
        total = _grouped(x, words, pairs, later_words, later_pairs, matrix, scales, rows, N, K, M, MP, BN, GC, ASM)
        total = _activated((total + added[:, None]).to(TYPE).to(tl.float32), ACTIVATION)
        if RESIDUAL:
            total = total.to(TYPE).to(tl.float32) + other
        tl.store(out + places, total.to(TYPE), mask=inside)
    else:
        if EARLY:
            tl.extra.cuda.gdc_wait()
        total = _many(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, ASM) + added[None, :]
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
    query, keys, values, now, N, CAPACITY,
    K: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, LANES: tl.constexpr,
    D: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, EARLY: tl.constexpr,
    AHEAD: tl.constexpr, ASM: tl.constexpr,
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
        WIDTH: tl.constexpr = query_matrix.dtype.element_ty.primitive_bitwidth // 8
        later = tl.program_id(0) + AHEAD
        if later < 3 * blocks:
            start = (later % blocks).to(tl.int64) * (BN * K * BITS // (8 * WIDTH))
            if later < blocks:
                _bring(query_matrix + start, BN * K * BITS // 8)
            elif later < 2 * blocks:
                _bring(key_matrix + start, BN * K * BITS // 8)
            else:
                _bring(value_matrix + start, BN * K * BITS // 8)
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
        if KIND == "groups":
            GC: tl.constexpr = BK // 16
            words, pairs = _chunk(matrix, scales, rows, N, 0, K, GC)
            later_words, later_pairs = words, pairs
            if K > 128 * GC:
                later_words, later_pairs = _chunk(matrix, scales, rows, N, 1, K, GC)
            if EARLY:
                tl.extra.cuda.gdc_wait()
            total = _grouped(x, words, pairs, later_words, later_pairs, matrix, scales, rows, N, K, M, MP, BN, GC, ASM)
            total = tl.trans(total)
        else:
            if EARLY:
                tl.extra.cuda.gdc_wait()
            total = _many(x, matrix, scales, rows, N, K, G, BITS, M, MP, BN, BK, ASM)
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
