// int8 weights, in the order of the token, and one scale per row, applied in the end.

// The values of the token that a lane splits: those that it has loaded.
__device__ void gather(Shared &, const Half8 &loaded, float (&numbers)[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) numbers[j] = loaded[j];
}

// Stores high or low bytes where matvec reads them: in the order of the token.
__device__ void store_split(uint4 *split, int eighth, const u32 (&numbers)[8], u32 byte) {
    reinterpret_cast<uint2 *>(split)[eighth] = {
        bytes_of(numbers[0], numbers[1], numbers[2], numbers[3], byte),
        bytes_of(numbers[4], numbers[5], numbers[6], numbers[7], byte)};
}

// One mma of int8: m16 n8 k32.
__device__ void mma_words(
    int (&sums)[4], u32 first, u32 second, u32 first_too, u32 second_too, u32 one, u32 other) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
        " {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(first), "r"(second), "r"(first_too), "r"(second_too), "r"(one), "r"(other));
}

__device__ uint4 words_of(const Shared &shared, const MmaLane &lane, int unit) {
    return shared.split[lane.upper][unit];
}

#include "contiguous.cuh"

// Accumulates a lane's part of a group of two rows of a tile.
__device__ void mma_group(
    Shared &shared, const MmaLane &lane, const u8 *tile, int group, int all, float2 &found) {
    int sums[4] = {};
    mma_contiguous(shared, lane, tile, group, all, sums);
    float by = shared.scales[all].x * lane.weight_of_half;
    found.x += as_float(lane.odd ? sums[1] : sums[0]) * by;
    found.y += as_float(lane.odd ? sums[3] : sums[2]) * by;
}
