// Weights of 16 bits, in the order of the token, which stays as it is.

// In the place of both digits, eight numbers at a time.
__device__ uint4 *token_of(Shared &shared) { return reinterpret_cast<uint4 *>(shared.digits); }

__device__ void pack(Shared &shared, int piece, const Eight &brought) {
    token_of(shared)[piece * THREADS + threadIdx.x] = brought.bits;
}

// Numbers of two rows times numbers; 16 rows, 8 columns, and 16 numbers that are added up.
__device__ void multiply_words(
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

// There is no second digit.
__device__ uint4 words_of(Shared &shared, const Lane &lane, int unit) {
    uint4 words = {};
    if (lane.upper == 0) words = token_of(shared)[unit];
    return words;
}

#include "in_order.cuh"

// Adds what a lane has of a group of two rows of a tile.
__device__ void multiply_group(
    Shared &shared, const Lane &lane, const u8 *tile, int group, int all, float2 &found) {
    float sums[4] = {};
    multiply_in_order(shared, lane, tile, group, all, sums);
    found.x += lane.odd ? sums[1] : sums[0];
    found.y += lane.odd ? sums[3] : sums[2];
}
