// A token, normalised or awaited, is packed as weights meet it.

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
        pack(shared, piece, {{pairs[0], pairs[1], pairs[2], pairs[3]}});
    }
    together();
}

// HIDDEN numbers that will be there.
__device__ void pack_awaited(Shared &shared, const u16 *x) {
#pragma unroll
    for (int piece = 0; piece < HIDDEN / (8 * THREADS); piece++)
        pack(shared, piece, eight_awaited(x + (piece * THREADS + threadIdx.x) * 8));
    together();
}
