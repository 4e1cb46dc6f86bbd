// Weights of 16 bits, in the order of the token, which stays as it is.

// In the place of both digits, eight numbers at a time.
__device__ uint4 *token_of(Shared &shared) { return reinterpret_cast<uint4 *>(shared.digits); }

__device__ void pack(Shared &shared, int piece, const Eight &brought) {
    token_of(shared)[piece * THREADS + threadIdx.x] = brought.bits;
}

// Numbers of two rows times numbers; 16 rows, 8 columns, and 16 numbers that are added up.
__device__ void multiply_numbers(
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

// Adds what a lane has of a group of two rows of a tile; see eight_bits.cuh for the order.
__device__ void multiply_group(
    Shared &shared, const Lane &lane, const u8 *tile, int group, int all, float2 &found) {
    const uint4 *numbers = reinterpret_cast<const uint4 *>(tile);
    float sums[4] = {};
#pragma unroll
    for (int turn = 0; turn < 2; turn++) {
        int place = (lane.which % 2 ^ turn) * 4 + lane.unit;
        uint4 first = numbers[lane.upper * (ROW_BYTES / 16) + group * (GROUP / 8) + place];
        uint4 second = numbers[(lane.upper + 2) * (ROW_BYTES / 16) + group * (GROUP / 8) + place];
        uint4 token = {};  // there is no second digit
        if (lane.upper == 0) token = token_of(shared)[all * (GROUP / 8) + place];
        multiply_numbers(sums, first.x, second.x, first.y, second.y, token.x, token.y);
        multiply_numbers(sums, first.z, second.z, first.w, second.w, token.z, token.w);
    }
    found.x += lane.odd ? sums[1] : sums[0];
    found.y += lane.odd ? sums[3] : sums[2];
}
