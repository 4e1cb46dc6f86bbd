// Weights of four and eight bits meet digits: tensor cores multiply bytes.
//
// A number of the token is 256 high + low, times its group's scale, a power of two; both digits are bytes with a sign.
// In bfloat16, numbers above a 64th of the group's largest stay as they are, and no error is above a 16384th of that.

// A whole number below 2 ** 22 as the last bits of 1.5 * 2 ** 23, less that. A group's sums are below 128 * 128 * 128.
__device__ float as_float(int number) { return __int_as_float(0x4B400000 + number) - 12582912.0f; }

#if BITS == 4
#include "four_bits.cuh"
#else
#include "eight_bits.cuh"
#endif

// Makes digits of some numbers of the token; a lane brings eight neighbours.
__device__ void pack(Shared &shared, int piece, const Eight &brought) {
    int lane = threadIdx.x % 32, eighth = piece * THREADS + threadIdx.x;
    float numbers[8], most = 0, sum = 0;
    meet(shared, brought, numbers);
#pragma unroll
    for (int j = 0; j < 8; j++) most = fmaxf(most, fabsf(numbers[j]));
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
    keep(shared.digits[0], eighth, high, 1);
    keep(shared.digits[1], eighth, low, 0);
    // Digits say nothing of what is no number, but their sum is none then; else the difference is 0.
    if (lane % 16 == 0) shared.scales[eighth / 16] = {back + (sum - sum), sum * back};
    __syncwarp();
}
