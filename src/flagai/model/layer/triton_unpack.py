"""How Triton kernels make floats of numbers of 8 and 4 bits: by their bits, without conversions, which are slow."""

import triton
import triton.language as tl

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
def _raised(word, J: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    # 128 + nibble J of each word.
    if ASM and TYPE == tl.bfloat16:
        return tl.inline_asm_elementwise(_RAISE[J], "=r,r,r", [word], dtype=tl.bfloat16, is_pure=True, pack=2)
    return (((word >> (4 * J)) & 15).to(tl.float32) + 128.0).to(TYPE)
