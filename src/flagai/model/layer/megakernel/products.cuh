// A token times tiles.

// The row of a product that a thread finishes, if any.
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

// A whole number below 2 ** 22, by its bits.
__device__ float as_float(int number) { return __int_as_float(0x4B400000 + number) - 12582912.0f; }

// The packed token times some tiles of this multiprocessor. Results of pass after pass lie one after the other.
//
// Tensor cores' rows are (row of the tile, quarter), and their columns (digit, quarter); groups of a quarter are 4 apart.
// A lane holds a unit of two rows. It gets, of both, the products with two quarters of a digit.
__device__ void multiply(Shared &shared, const Share &share, Place &place, int &next, int pass = 0) {
    constexpr int STEPS = COLUMNS / GROUP / QUARTERS / PARTS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = warp % PARTS;
    int upper = lane / 16, quarter = lane / 4 % QUARTERS, unit = lane % 4;
    bool odd = quarter % 2, high = unit < 2, own = unit % 2 == quarter / 2;
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
            int group = (part * STEPS + step) * QUARTERS + quarter;
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
            shared.results[before + next][part][upper][quarter] = first_sum;
            shared.results[before + next][part][upper + 2][quarter] = second_sum;
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
