// A matrix of 16-bit weights times 1 to 16 tokens, with what stands around the product in a decoding step.
//
// A step waits for weights, and which weights come does not depend on the tokens. So each warp loads its part of the
// matrix into registers before the kernel in front of this one has ended (programmatic dependent launch), and only then
// waits for the tokens. Lanes hold weights and tokens as they lie in memory, 16 bytes of a row each: the tensor cores
// take the columns of a product in any order, as long as both factors have the same one. So nothing passes through
// shared memory but the sums of warps. A CTA has half of the registers of an SM at most, so that the next kernel's fit
// beside it.
//
// Compiler options: K (columns), N (rows of a matrix), MATRICES (1, or 3: queries, keys, values), HALVES (1: at most 8
// tokens, 2: at most 16), TILES (of 8 rows that a CTA computes), WARPS (which share the columns), NORM (1: layer norm of
// the tokens first), ACTIVATION (-1 none, 0 gelu, 1 gelu_tanh, 2 relu, 3 silu), RESIDUAL, BFLOAT (1: bfloat16, 0:
// float16).

#include "half.cuh"
#include "activation.cuh"
#include "lanes.cuh"

constexpr int THREADS = WARPS * 32;
constexpr int SHARE = K / WARPS;             // columns of a warp
constexpr int CHUNKS = SHARE / 32;           // of 16 bytes of each lane
constexpr int ROWS = TILES * 8;              // of the matrix that a CTA computes
constexpr int TOKENS = HALVES * 8;
constexpr int CHAINS = TILES == 1 ? 2 : 1;   // independent sums of a tile: a tensor core waits for its last one
constexpr int RESULTS = (TOKENS * ROWS + THREADS - 1) / THREADS;  // of a thread
constexpr int NORMED = NORM ? K : 8;
static_assert(SHARE * WARPS == K && SHARE % 32 == 0, "lanes take 16 bytes");
static_assert(N % ROWS == 0, "a CTA has rows of one matrix");

struct Shared {
    uint4 gain[NORMED / 8], shift[NORMED / 8];
    float means[WARPS][TOKENS], squares[WARPS][TOKENS];
    float warps[WARPS][TOKENS][ROWS];        // sums of this CTA's warps
};

// One of eight values.
__device__ float number_of(const uint4 &bits, int i) {
    u32 pair = i < 2 ? bits.x : i < 4 ? bits.y : i < 6 ? bits.z : bits.w;
    return half_to_float(u16(i % 2 ? pair >> 16 : pair));
}

__device__ u32 pair_of(float low, float high) { return float_to_half(low) | u32(float_to_half(high)) << 16; }

__device__ uint4 packed(const float (&of)[8]) {
    return {pair_of(of[0], of[1]), pair_of(of[2], of[3]), pair_of(of[4], of[5]), pair_of(of[6], of[7])};
}

// Where a lane's columns of a chunk begin.
__device__ int column_of(int chunk) {
    return threadIdx.x / 32 * SHARE + chunk * 32 + threadIdx.x % 4 * 8;
}

// A warp's part of the tokens: a lane has 16 bytes of one of each eight tokens in every chunk.
__device__ void load_tokens(const u16 *x, int count, uint4 (&tokens)[CHUNKS][HALVES]) {
    int row = threadIdx.x % 32 / 4;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            tokens[chunk][half] = {};
            if (row + half * 8 < count) tokens[chunk][half] = load8(x + (row + half * 8) * K + column_of(chunk));
        }
    __syncwarp();
}

// The compiler forgets what it has computed of the tokens: it would keep them in float32, for which there is no room.
__device__ void forget_floats(uint4 (&tokens)[CHUNKS][HALVES]) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            uint4 &four = tokens[chunk][half];
            asm volatile("" : "+r"(four.x), "+r"(four.y), "+r"(four.z), "+r"(four.w));
        }
}

// Normalises the tokens in registers, rounded as a tensor is. Warps join their means and sums of squares.
__device__ void normalize(Shared &shared, float eps, uint4 (&tokens)[CHUNKS][HALVES]) {
    int warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < HALVES; half++) {
        float sum = 0, apart = 0;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
            for (int i = 0; i < 8; i++) sum += number_of(tokens[chunk][half], i);
        float mean = sum_of_four(sum) / SHARE;
        forget_floats(tokens);
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float off = number_of(tokens[chunk][half], i) - mean;
                apart += off * off;
            }
        apart = sum_of_four(apart);
        if (threadIdx.x % 4 == 0)
            shared.means[warp][half * 8 + row] = mean, shared.squares[warp][half * 8 + row] = apart;
        forget_floats(tokens);
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < HALVES; half++) {
        int token = half * 8 + row;
        float mean = 0, variance = 0;
#pragma unroll
        for (int other = 0; other < WARPS; other++) mean += shared.means[other][token] / WARPS;
#pragma unroll
        for (int other = 0; other < WARPS; other++) {
            float off = shared.means[other][token] - mean;
            variance += shared.squares[other][token] + SHARE * off * off;
        }
        float rate = rsqrtf(variance / K + eps);
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            uint4 gain = shared.gain[column_of(chunk) / 8], shift = shared.shift[column_of(chunk) / 8];
            float normed[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                normed[i] = (number_of(tokens[chunk][half], i) - mean) * rate * number_of(gain, i) + number_of(shift, i);
            tokens[chunk][half] = packed(normed);
        }
    }
}

// Leaves a warp's sums where all threads of the CTA find them.
__device__ void store_sums(Shared &shared, const float (&sums)[TILES][CHAINS][4]) {
    int warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            float2 pair = {sums[tile][0][2 * half], sums[tile][0][2 * half + 1]};
            if (CHAINS > 1) pair.x += sums[tile][CHAINS - 1][2 * half], pair.y += sums[tile][CHAINS - 1][2 * half + 1];
            *reinterpret_cast<float2 *>(&shared.warps[warp][half * 8 + row][tile * 8 + column]) = pair;
        }
    __syncthreads();
}

// The sum of all warps for a token and a row.
__device__ float sum_of_warps(const Shared &shared, int token, int row) {
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) total += shared.warps[warp][token][row];
    return total;
}

extern "C" __global__ void __launch_bounds__(THREADS, 512 / THREADS) product_kernel(
    const u16 *x, const u16 *m0, const u16 *m1, const u16 *m2, const u16 *b0, const u16 *b1, const u16 *b2,
    const u16 *gain, const u16 *shift, float eps, const u16 *residual, u16 *out, u16 *keys, u16 *values,
    const long long *slots, int count) {
    __shared__ Shared shared;
    let_next_begin();
    int first = blockIdx.x * ROWS, which = MATRICES == 1 ? 0 : first / N, begin = first % N;
    const u16 *matrix = which == 0 ? m0 : which == 1 ? m1 : m2, *bias = which == 0 ? b0 : which == 1 ? b1 : b2;
    u16 *target = which == 0 ? out : which == 1 ? keys : values;
    matrix += u64(begin + threadIdx.x % 32 / 4) * K;
    uint4 weights[TILES][CHUNKS], tokens[CHUNKS][HALVES];
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
            weights[tile][chunk] = load_once(matrix + u64(tile) * 8 * K + column_of(chunk));
#pragma unroll 1
    for (int place = threadIdx.x; NORM && place < K / 8; place += THREADS)
        shared.gain[place] = load8(gain + place * 8), shared.shift[place] = load8(shift + place * 8);
    float added[RESULTS], before[RESULTS];
    long long to[RESULTS];
#pragma unroll
    for (int n = 0; n < RESULTS; n++)
        added[n] = bias ? half_to_float(bias[begin + (n * THREADS + threadIdx.x) % ROWS]) : 0;
    wait_for_last();
    load_tokens(x, count, tokens);
#pragma unroll
    for (int n = 0; n < RESULTS; n++) {
        int place = n * THREADS + threadIdx.x, token = place / ROWS;
        to[n] = -1, before[n] = 0;
        if (place >= count * ROWS) continue;
        to[n] = (which ? slots[token] : token) * N + begin + place % ROWS;
        if (RESIDUAL) before[n] = half_to_float(residual[to[n]]);
    }
    if (NORM) normalize(shared, eps, tokens);
    float sums[TILES][CHAINS][4] = {};
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            uint4 upper = tokens[chunk][0], lower = {}, w = weights[tile][chunk];
            if (HALVES > 1) lower = tokens[chunk][HALVES - 1];
            mma(sums[tile][0], upper.x, lower.x, upper.y, lower.y, w.x, w.y);
            mma(sums[tile][CHAINS - 1], upper.z, lower.z, upper.w, lower.w, w.z, w.w);
        }
    store_sums(shared, sums);
#pragma unroll
    for (int n = 0; n < RESULTS; n++) {
        int place = n * THREADS + threadIdx.x, token = place / ROWS, row = place % ROWS;
        if (to[n] < 0) continue;
        float total = sum_of_warps(shared, token, row) + added[n];
        total = activation(round_to_half(total));
        target[to[n]] = float_to_half(RESIDUAL ? round_to_half(total) + before[n] : total);
    }
}
