// int4 weights, in the layout of flagai.checkpoint.quantization: in unit u (four words) of a group, nibble j of word w
// is weight 16 j + 4 u + w. One operation turns four nibbles of a word into four bytes.

// Index of the bytes for half a unit (two words); in this order neither loads nor stores have bank conflicts.
__device__ int split_index(int unit, int half) { return unit * 2 + (half ^ (unit / 4 & 1)); }

// The values of the token that a lane splits: those multiplied by word `lane % 16` of a group. It has loaded others.
__device__ void gather(Shared &shared, const Half8 &loaded, float (&numbers)[8]) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    reinterpret_cast<uint4 *>(shared.numbers[warp])[lane] = loaded.bits;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; j++)
        numbers[j] = half_to_float(shared.numbers[warp][lane / 16 * GROUP + lane % 16 + 16 * j]);
}

// Stores high or low bytes where matvec reads them: for word w of a unit, those of its even weights are in one word,
// those of its odd weights in the next.
__device__ void store_split(uint4 *split, int eighth, const u32 (&numbers)[8], u32 byte) {
    int unit = eighth / 4, w = eighth % 4;
    reinterpret_cast<uint2 *>(split)[split_index(unit, w / 2) * 2 + w % 2] = {
        bytes_of(numbers[0], numbers[2], numbers[4], numbers[6], byte),
        bytes_of(numbers[1], numbers[3], numbers[5], numbers[7], byte)};
}

// One mma of nibbles (uint8) and int8: m16 n8 k32.
__device__ void mma_nibbles(int (&sums)[4], u32 first, u32 second, u32 even, u32 odd) {
    constexpr u32 NIBBLES = 0x0F0F0F0F;
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
        " {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(first & NIBBLES), "r"(second & NIBBLES), "r"(first >> 4 & NIBBLES), "r"(second >> 4 & NIBBLES), "r"(even),
          "r"(odd));
}

// A row's result of a group: the sum times the scale, and the minimum times the sum of the token's values.
__device__ float of_group(int sum, u32 step, float by, float plain) {
    return as_float(sum) * (__uint_as_float(step << 16) * by) + plain * __uint_as_float(step & 0xFFFF0000);
}

// Accumulates a lane's part of a group of two rows of a tile.
__device__ void mma_group(
    Shared &shared, const MmaLane &lane, const u8 *tile, int group, int all, float2 &found) {
    const uint4 *units = reinterpret_cast<const uint4 *>(tile);
    const u32 *steps = reinterpret_cast<const u32 *>(tile + ROWS * ROW_BYTES);
    uint4 first = units[lane.upper * (ROW_BYTES / 16) + group * 4 + lane.unit];
    uint4 second = units[(lane.upper + 2) * (ROW_BYTES / 16) + group * 4 + lane.unit];
    u32 first_step = steps[lane.upper * (COLUMNS / GROUP) + group];
    u32 second_step = steps[(lane.upper + 2) * (COLUMNS / GROUP) + group];
    float2 scale = shared.scales[all];
    uint4 front = shared.split[lane.upper][split_index(all * 4 + lane.unit, 0)];
    uint4 back = shared.split[lane.upper][split_index(all * 4 + lane.unit, 1)];
    int sums[4] = {};
    mma_nibbles(sums, first.x, second.x, front.x, front.y);
    mma_nibbles(sums, first.y, second.y, front.z, front.w);
    mma_nibbles(sums, first.z, second.z, back.x, back.y);
    mma_nibbles(sums, first.w, second.w, back.z, back.w);
    float by = scale.x * lane.weight_of_half, plain = lane.high ? scale.y : 0;
    found.x += of_group(lane.odd ? sums[1] : sums[0], first_step, by, plain);
    found.y += of_group(lane.odd ? sums[3] : sums[2], second_step, by, plain);
}
