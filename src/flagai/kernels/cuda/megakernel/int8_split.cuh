// The token as a hi/lo int8 split, for int4 and int8 weights: the tensor cores multiply int8.
//
// A value of the token is 256 high + low, times its group's scale, a power of two; both are signed bytes. In bfloat16,
// values above 1/64 of the group's largest are exact, and no error is above 1/16384 of that.

// An integer below 2 ** 22 as the last bits of 1.5 * 2 ** 23, less that. A group's sums are below 128 * 128 * 128.
__device__ float as_float(int number) { return __int_as_float(0x4B400000 + number) - 12582912.0f; }

#if BITS == 4
#include "weights_int4.cuh"
#else
#include "weights_int8.cuh"
#endif

// Splits some values of the token; a lane loads eight contiguous ones.
__device__ void pack(Shared &shared, int piece, const Half8 &loaded) {
    int lane = threadIdx.x % 32, eighth = piece * THREADS + threadIdx.x;
    float numbers[8], most = 0, sum = 0;
    gather(shared, loaded, numbers);
#pragma unroll
    for (int j = 0; j < 8; j++) most = fmaxf(most, fabsf(numbers[j]));
#pragma unroll
    for (int step = 1; step < 16; step *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
    // The largest value of a group becomes one of [2 ** 13, 2 ** 14).
    int exponent = min(max(int(__float_as_uint(most) >> 23), 14), 254);
    float factor = __uint_as_float(u32(267 - exponent) << 23), back = __uint_as_float(u32(exponent - 13) << 23);
    u32 low[8], high[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float whole = rintf(numbers[j] * factor);
        sum += whole;                   // of the split values: rounding errors are multiplied by weights, not by scales
        low[j] = int(whole);            // the last byte; with its sign it may be -128
        high[j] = low[j] + 128;         // so this carries into the byte before
    }
#pragma unroll
    for (int step = 1; step < 16; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
    store_split(shared.split[0], eighth, high, 1);
    store_split(shared.split[1], eighth, low, 0);
    // Bytes cannot hold NaN or infinity, but their sum is NaN then; else the difference is 0.
    if (lane % 16 == 0) shared.scales[eighth / 16] = {back + (sum - sum), sum * back};
    __syncwarp();
}
