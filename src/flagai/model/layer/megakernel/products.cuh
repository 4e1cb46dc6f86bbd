// A token times tiles.

// The row of a product that a thread finishes, if it is real; else 0, so that what is read for it exists.
struct Row {
    bool real;
    int row;

    __device__ explicit Row(const Share &share) {
        real = threadIdx.x < share.count * ROWS;
        row = real ? (share.first + threadIdx.x / ROWS * gridDim.x) * ROWS + threadIdx.x % ROWS : 0;
    }
};

// Nibbles of a word of two rows times bytes; 16 rows, 8 columns, and 32 numbers that are added up.
__device__ void multiply_nibbles(int (&sums)[4], u32 first, u32 second, u32 even, u32 odd) {
    constexpr u32 NIBBLES = 0x0F0F0F0F;
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
        " {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(first & NIBBLES), "r"(second & NIBBLES), "r"(first >> 4 & NIBBLES), "r"(second >> 4 & NIBBLES), "r"(even),
          "r"(odd));
}

// A whole number below 2 ** 22 as the last bits of 1.5 * 2 ** 23, less that. Sums here are below 15 * 128 * 128.
__device__ float as_float(int number) { return __int_as_float(0x4B400000 + number) - 12582912.0f; }

// The packed token times some tiles of this multiprocessor. Results of pass after pass lie one after the other.
//
// Each group has a step of its own, so products of different groups must stay apart, and tensor cores take 16 rows and 8
// columns at once. A row is therefore (row of the tile, which of 4 neighbouring groups), and a column (digit, which of the
// 4 groups); only results of the same group are of use, a quarter of all. A lane holds a unit of two rows, and gets the
// results of these rows with two columns: one of them may be of its own group.
__device__ void multiply(Shared &shared, const Share &share, Place &place, int &next, int pass = 0) {
    constexpr int STEPS = COLUMNS / GROUP / TOGETHER / PARTS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = warp % PARTS;
    int upper = lane / 16, which = lane / 4 % TOGETHER, unit = lane % 4;
    bool odd = which % 2, high = unit < 2, own = unit % 2 == which / 2;
    float worth = high ? 256 : 1;
    int tiles = share.count * LENGTH, before = pass * tiles;
#pragma unroll 1
    for (; next < tiles; next += SETS) {
        const uint4 *units = reinterpret_cast<const uint4 *>(shared.ring[place.slot]);
        const u32 *steps = reinterpret_cast<const u32 *>(shared.ring[place.slot] + ROWS * ROW_BYTES);
        int groups = (next & (LENGTH - 1)) * (COLUMNS / GROUP);
        float first_sum = 0, second_sum = 0;
        wait_for(&shared.full[place.slot], place.parity);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int group = (part * STEPS + step) * TOGETHER + which;
            uint4 first = units[upper * (ROW_BYTES / 16) + group * 4 + unit];
            uint4 second = units[(upper + 2) * (ROW_BYTES / 16) + group * 4 + unit];
            u32 first_step = steps[upper * (COLUMNS / GROUP) + group];
            u32 second_step = steps[(upper + 2) * (COLUMNS / GROUP) + group];
            float2 scale = shared.scales[groups + group];
            uint4 front = shared.digits[upper][digits_of((groups + group) * 4 + unit, 0)];
            uint4 back = shared.digits[upper][digits_of((groups + group) * 4 + unit, 1)];
            int sums[4] = {};
            multiply_nibbles(sums, first.x, second.x, front.x, front.y);
            multiply_nibbles(sums, first.y, second.y, front.z, front.w);
            multiply_nibbles(sums, first.z, second.z, back.x, back.y);
            multiply_nibbles(sums, first.w, second.w, back.z, back.w);
            float by = scale.x * worth, plain = high ? scale.y : 0;
            first_sum += as_float(odd ? sums[1] : sums[0]) * (__uint_as_float(first_step << 16) * by)
                + plain * __uint_as_float(first_step & 0xFFFF0000);
            second_sum += as_float(odd ? sums[3] : sums[2]) * (__uint_as_float(second_step << 16) * by)
                + plain * __uint_as_float(second_step & 0xFFFF0000);
        }
        __syncwarp();
        if (lane == 0) arrive(&shared.empty[place.slot]);
        place.advance(SETS);
        first_sum += __shfl_xor_sync(~0u, first_sum, 2);
        second_sum += __shfl_xor_sync(~0u, second_sum, 2);
        if (own && high) {
            shared.results[before + next][part][upper][which] = first_sum;
            shared.results[before + next][part][upper + 2][which] = second_sum;
        }
    }
    next -= tiles;
    together();
}

// What multiply has found for a thread's row.
__device__ float result_of(const Shared &shared, const Share &share, int passes = 1) {
    float result = 0;
    if (threadIdx.x < share.count * ROWS)
        for (int pass = 0; pass < passes; pass++)
            for (int n = 0; n < LENGTH; n++)
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    int tile = (pass * share.count + threadIdx.x / ROWS) * LENGTH + n;
                    float4 four = *reinterpret_cast<const float4 *>(shared.results[tile][part][threadIdx.x % ROWS]);
                    result += (four.x + four.y) + (four.z + four.w);
                }
    return result;
}

__device__ float activated(float y) {
#if ACTIVATION == 0
    return 0.5f * y * (1 + erff(y * 0.7071067811865476f));
#elif ACTIVATION == 1
    return y / (1 + __expf(-1.5957691216057308f * (y + 0.044715f * y * y * y)));
#elif ACTIVATION == 2
    return fmaxf(y, 0);
#else
    return y / (1 + __expf(-y));
#endif
}
