// A token, normalised or from other CTAs, is packed in the order of the weights.

__device__ float warp_sum(float number) {
#pragma unroll
    for (int step = 16; step; step /= 2) number += __shfl_xor_sync(~0u, number, step);
    return number;
}

// A thread packs pieces of eight values; of few values, only the first warps pack some.
__device__ constexpr int pieces_of(int values) { return values < 8 * THREADS ? 1 : values / (8 * THREADS); }
constexpr int PIECES = pieces_of(HIDDEN);
constexpr int PACKING_WARPS = HIDDEN / (8 * 32 * PIECES);

// `there`: x is an argument of the kernel; else other CTAs store it.
__device__ void pack_layer_norm(
    Shared &shared, const u16 *x, bool there, const u16 *norm_weight, const u16 *norm_bias, float eps) {
    constexpr int OF_WARP = 8 * 32 * PIECES;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Half8 norm_weights[PIECES], norm_biases[PIECES], numbers[PIECES];
    if (warp < PACKING_WARPS) {
        float sum = 0, squares = 0;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            int place = (piece * THREADS + threadIdx.x) * 8;
            norm_weights[piece] = load8(norm_weight + place);
            norm_biases[piece] = load8(norm_bias + place);
        }
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            int place = (piece * THREADS + threadIdx.x) * 8;
            numbers[piece] = there ? load8(x + place) : wait_load8<false>(x + place);
#pragma unroll
            for (int i = 0; i < 8; i++) sum += numbers[piece][i];
        }
        float of_warp = warp_sum(sum) / OF_WARP;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++)
#pragma unroll
            for (int i = 0; i < 8; i++) squares += (numbers[piece][i] - of_warp) * (numbers[piece][i] - of_warp);
        squares = warp_sum(squares);
        if (lane == 0) {
            shared.mean_and_m2[0][warp] = of_warp;
            shared.mean_and_m2[1][warp] = squares;
        }
    }
    sync_compute_threads();
    float mean = 0, variance = 0;
#pragma unroll
    for (int other = 0; other < PACKING_WARPS; other++) mean += shared.mean_and_m2[0][other];
    mean /= PACKING_WARPS;
#pragma unroll
    for (int other = 0; other < PACKING_WARPS; other++) {
        float apart = shared.mean_and_m2[0][other] - mean;
        variance += shared.mean_and_m2[1][other] + OF_WARP * apart * apart;
    }
    float rate = rsqrtf(variance / HIDDEN + eps);
#pragma unroll
    for (int piece = 0; piece < PIECES && warp < PACKING_WARPS; piece++) {
        u32 pairs[4];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float normed = (numbers[piece][i] - mean) * rate * norm_weights[piece][i] + norm_biases[piece][i];
            u32 number = float_to_half(normed);
            pairs[i / 2] = i % 2 ? pairs[i / 2] | number << 16 : number;
        }
        pack(shared, piece, {{pairs[0], pairs[1], pairs[2], pairs[3]}});
    }
    sync_compute_threads();
}

// Values that other CTAs store.
template <int COUNT> __device__ void pack_when_ready(Shared &shared, const u16 *x) {
#pragma unroll
    for (int piece = 0; piece < pieces_of(COUNT) && threadIdx.x < COUNT / 8; piece++)
        pack(shared, piece, wait_load8<false>(x + (piece * THREADS + threadIdx.x) * 8));
    sync_compute_threads();
}
