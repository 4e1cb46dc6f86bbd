// A token, normalised or awaited, becomes digits that tensor cores multiply.
//
// A number is 256 high + low, times its group's scale; both digits are bytes with a sign. The digits lie as the nibbles do
// that they meet: for word w of a unit there are the digits of its even numbers in one word, of its odd ones in the next.

// Where the digits for half a unit (two words) are; in this order, neither who writes nor who reads meets a bank twice.
__device__ int digits_of(int unit, int half) { return unit * 2 + (half ^ (unit / 4 & 1)); }

// Makes digits of some numbers of the token. A lane brings eight neighbours; by shared.numbers it gets those that word
// `lane % 16` of a group meets, which are 16 apart.
__device__ void pack(Shared &shared, int piece, uint4 bits) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, w = lane % 4;
    int unit = (piece * THREADS + threadIdx.x) / 4;
    reinterpret_cast<uint4 *>(shared.numbers[warp])[lane] = bits;
    __syncwarp();
    float numbers[8], most = 0, sum = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        numbers[j] = widened(shared.numbers[warp][lane / 16 * GROUP + lane % 16 + 16 * j]);
        most = fmaxf(most, fabsf(numbers[j]));
    }
#pragma unroll
    for (int step = 1; step < 16; step *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
    // The largest number of a group becomes one of [2 ** 13, 2 ** 14).
    int exponent = min(max(int(__float_as_uint(most) >> 23), 14), 254);
    float factor = __uint_as_float(u32(267 - exponent) << 23), back = __uint_as_float(u32(exponent - 13) << 23);
    u32 low[8], high[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float whole = rintf(numbers[j] * factor);
        sum += whole;                   // of what the digits say: errors of rounding meet weights, not steps
        low[j] = int(whole);            // the last byte; with its sign it may be -128
        high[j] = low[j] + 128;         // so this carries into the byte before
    }
#pragma unroll
    for (int step = 1; step < 16; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
    u32 place = digits_of(unit, w / 2) * 2 + w % 2;
    reinterpret_cast<uint2 *>(shared.digits[0])[place] = {
        bytes_of(high[0], high[2], high[4], high[6], 1), bytes_of(high[1], high[3], high[5], high[7], 1)};
    reinterpret_cast<uint2 *>(shared.digits[1])[place] = {
        bytes_of(low[0], low[2], low[4], low[6], 0), bytes_of(low[1], low[3], low[5], low[7], 0)};
    if (lane % 16 == 0) shared.scales[unit / 4] = {back, sum * back};
    __syncwarp();
}

__device__ float added_up(float number) {
#pragma unroll
    for (int step = 16; step; step /= 2) number += __shfl_xor_sync(~0u, number, step);
    return number;
}

// x is there already, or will be.
__device__ void pack_normed(
    Shared &shared, const u16 *x, bool there, const u16 *gain, const u16 *shift, float eps) {
    constexpr int PIECES = HIDDEN / (8 * THREADS), OF_WARP = HIDDEN / WARPS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Eight gains[PIECES], shifts[PIECES], numbers[PIECES];
    float sum = 0, squares = 0;
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        int place = (piece * THREADS + threadIdx.x) * 8;
        gains[piece] = eight(gain + place);
        shifts[piece] = eight(shift + place);
    }
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        int place = (piece * THREADS + threadIdx.x) * 8;
        numbers[piece] = there ? eight(x + place) : eight_awaited(x + place);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += numbers[piece][i];
    }
    float of_warp = added_up(sum) / OF_WARP;
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++)
#pragma unroll
        for (int i = 0; i < 8; i++) squares += (numbers[piece][i] - of_warp) * (numbers[piece][i] - of_warp);
    squares = added_up(squares);
    if (lane == 0) {
        shared.moments[0][warp] = of_warp;
        shared.moments[1][warp] = squares;
    }
    together();
    float mean = 0, variance = 0;
#pragma unroll
    for (int other = 0; other < WARPS; other++) mean += shared.moments[0][other];
    mean /= WARPS;
#pragma unroll
    for (int other = 0; other < WARPS; other++) {
        float apart = shared.moments[0][other] - mean;
        variance += shared.moments[1][other] + OF_WARP * apart * apart;
    }
    float rate = rsqrtf(variance / HIDDEN + eps);
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        u32 pairs[4];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            u32 number = rounded((numbers[piece][i] - mean) * rate * gains[piece][i] + shifts[piece][i]);
            pairs[i / 2] = i % 2 ? pairs[i / 2] | number << 16 : number;
        }
        pack(shared, piece, {pairs[0], pairs[1], pairs[2], pairs[3]});
    }
    together();
}

// HIDDEN numbers that will be there.
__device__ void pack_awaited(Shared &shared, const u16 *x) {
#pragma unroll
    for (int piece = 0; piece < HIDDEN / (8 * THREADS); piece++)
        pack(shared, piece, eight_awaited(x + (piece * THREADS + threadIdx.x) * 8).bits);
    together();
}
