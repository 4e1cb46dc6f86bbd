// Weights of eight bits: bytes with a sign, in the order of the token, and one scale for a row, which is for the end.

// The numbers of the token that a lane makes digits of: those that it brings.
__device__ void meet(Shared &, const Eight &brought, float (&numbers)[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) numbers[j] = brought[j];
}

// Puts one kind of digits where multiply finds them: in the order of the token.
__device__ void keep(uint4 *digits, int eighth, const u32 (&numbers)[8], u32 byte) {
    reinterpret_cast<uint2 *>(digits)[eighth] = {
        bytes_of(numbers[0], numbers[1], numbers[2], numbers[3], byte),
        bytes_of(numbers[4], numbers[5], numbers[6], numbers[7], byte)};
}

// Bytes of two rows times bytes; 16 rows, 8 columns, and 32 numbers that are added up.
__device__ void multiply_words(
    int (&sums)[4], u32 first, u32 second, u32 first_too, u32 second_too, u32 one, u32 other) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
        " {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(first), "r"(second), "r"(first_too), "r"(second_too), "r"(one), "r"(other));
}

__device__ uint4 words_of(const Shared &shared, const Lane &lane, int unit) { return shared.digits[lane.upper][unit]; }

#include "in_order.cuh"

// Adds what a lane has of a group of two rows of a tile.
__device__ void multiply_group(
    Shared &shared, const Lane &lane, const u8 *tile, int group, int all, float2 &found) {
    int sums[4] = {};
    multiply_in_order(shared, lane, tile, group, all, sums);
    float by = shared.scales[all].x * lane.worth;
    found.x += as_float(lane.odd ? sums[1] : sums[0]) * by;
    found.y += as_float(lane.odd ? sums[3] : sums[2]) * by;
}
