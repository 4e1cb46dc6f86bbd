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


@triton.jit
def split16(tile):
    """[..., 2 n] -> the numbers at even and at odd places, [..., n] each."""
    return tl.split(tl.reshape(tile, tile.shape[:-1] + [tile.shape[-1] // 2, 2]))


@triton.jit
def split8(tile):
    """[..., 4] -> four of [...]."""
    even, odd = split16(tile)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def pair_halves(low, high, ASM: tl.constexpr):
    """Two numbers as float16 in one word."""
    if ASM:
        pair = tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [low, high], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        first = low.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        pair = first | (high.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) << 16)
    return pair


@triton.jit
def fma_nibbles(total, word, x0, x1, x2, x3, ASM: tl.constexpr):
    """Add the nibbles of a word [BU, BN], times 2 ** -24, times pairs of float16, to a total.

    Pairs meet nibbles j and j + 4; those for odd j hold a sixteenth.

    A nibble in the low bits of a float16 is such a number: nothing needs converting.
    """
    if ASM:
        result = tl.inline_asm_elementwise(
            """{
            .reg .b32 high, both, sum;
            shr.u32 high, $2, 8;
            and.b32 both, $2, 0x000F000F;
            fma.rn.f16x2 sum, both, $3, $1;
            and.b32 both, $2, 0x00F000F0;
            fma.rn.f16x2 sum, both, $4, sum;
            and.b32 both, high, 0x000F000F;
            fma.rn.f16x2 sum, both, $5, sum;
            and.b32 both, high, 0x00F000F0;
            fma.rn.f16x2 $0, both, $6, sum;
            }""",
            "=r,r,r,r,r,r,r",
            [total, word, x0[:, None], x1[:, None], x2[:, None], x3[:, None]],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        first = _two_nibbles(word, 0, x0) + 16.0 * _two_nibbles(word, 1, x1)
        second = _two_nibbles(word, 2, x2) + 16.0 * _two_nibbles(word, 3, x3)
        result = total + first + second
    return result


@triton.jit
def _two_nibbles(word, J: tl.constexpr, pair):
    low = (pair << 16 >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    high = (pair >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    first = ((word >> (4 * J)) & 15).to(tl.float32)
    second = ((word >> (4 * J + 16)) & 15).to(tl.float32)
    return (first * low[:, None] + second * high[:, None]) * 2.0**-24


@triton.jit
def sum_halves(total, ASM: tl.constexpr):
    """The two float16 of a word, added in float32."""
    if ASM:
        result = tl.inline_asm_elementwise(
            """{
            .reg .b16 low, high;
            .reg .f32 first, second;
            mov.b32 {low, high}, $1;
            cvt.f32.f16 first, low;
            cvt.f32.f16 second, high;
            add.f32 $0, first, second;
            }""",
            "=f,r",
            [total],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        result = total
    return result


@triton.jit
def byte_to_float(word, J: tl.constexpr, ASM: tl.constexpr):
    """1.5 + byte J of a word, which has a sign, divided by 256."""
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
def weight_positions(units, J: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr):
    """Of the tokens' numbers that meet part J of each unit.

    4 for nibble J of 4 words, or 8 for the bytes of 2 words.
    """
    if BITS == 4:
        UNITS: tl.constexpr = G // 32  # of a group
        begin = (units // UNITS) * G + (units % UNITS) * 4 + J * (G // 8)
        places = begin[:, None] + tl.arange(0, 4)[None, :]
    else:
        places = (units * 16 + J * 8)[:, None] + tl.arange(0, 8)[None, :]
    return places


@triton.jit
def dequantized(word, pair, J: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    """Nibble J of each word times its group's scale, plus the group's minimum, rounded to TYPE once."""
    if ASM and tl.bfloat16 == TYPE:
        return tl.inline_asm_elementwise(_WIDEN[J], "=r,r,r,r,r", [word, pair], dtype=tl.bfloat16, is_pure=True, pack=2)
    step = (pair << 16).to(tl.float32, bitcast=True)
    least = (pair & -65536).to(tl.float32, bitcast=True)
    return (((word >> (4 * J)) & 15).to(tl.float32) * step + least).to(TYPE)


@triton.jit
def nibble_to_half(word, J: tl.constexpr, TYPE: tl.constexpr, ASM: tl.constexpr):
    """128 + nibble J of each word."""
    if ASM and TYPE == tl.bfloat16:
        return tl.inline_asm_elementwise(_RAISE[J], "=r,r,r", [word], dtype=tl.bfloat16, is_pure=True, pack=2)
    return (((word >> (4 * J)) & 15).to(tl.float32) + 128.0).to(TYPE)
