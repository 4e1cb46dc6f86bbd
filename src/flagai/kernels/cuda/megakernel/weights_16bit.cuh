// bfloat16 or float16 weights, in the order of the token, which is not converted.

// In the place of the int8 split, eight values at a time.
__device__ uint4 *token_of(Shared &shared) { return reinterpret_cast<uint4 *>(shared.split); }

__device__ void pack(Shared &shared, int piece, const Half8 &loaded) {
    token_of(shared)[piece * THREADS + threadIdx.x] = loaded.bits;
}

// One mma of 16-bit values: m16 n8 k16.
__device__ void mma_words(
    float (&sums)[4], u32 first, u32 second, u32 first_too, u32 second_too, u32 one, u32 other) {
#if BFLOAT
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define MULTIPLY "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#endif
    asm(MULTIPLY " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(first), "r"(second), "r"(first_too), "r"(second_too), "r"(one), "r"(other));
}

// There is no low byte.
__device__ uint4 words_of(Shared &shared, const MmaLane &lane, int unit) {
    uint4 words = {};
    if (lane.upper == 0) words = token_of(shared)[unit];
    return words;
}

#include "contiguous.cuh"

// Accumulates a lane's part of a group of two rows of a tile.
__device__ void mma_group(
    Shared &shared, const MmaLane &lane, const u8 *tile, int group, int all, float2 &found) {
    float sums[4] = {};
    mma_contiguous(shared, lane, tile, group, all, sums);
    found.x += lane.odd ? sums[1] : sums[0];
    found.y += lane.odd ? sums[3] : sums[2];
}
