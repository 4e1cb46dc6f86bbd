// Attention of a head of the token to the cache.

__device__ float minus_infinity() { return __uint_as_float(0xFF800000); }  // minus infinity

// An online softmax, by eight lanes with eight features each. A masked slot changes nothing.
struct Attention {
    float total[8] = {}, highest = minus_infinity(), weight = 0;

    __device__ void add(const float (&qkv)[8], const Half8 &key, const Half8 &value, bool attends, float scale) {
        float score = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) score += qkv[k] * key[k];
#pragma unroll
        for (int step = 1; step < 8; step *= 2) score += __shfl_xor_sync(~0u, score, step);
        score = attends ? score * scale : highest;
        float higher = fmaxf(highest, score), share = attends ? __expf(score - higher) : 0;
        float shrink = highest == higher ? 1 : __expf(highest - higher);
        highest = higher;
        weight = weight * shrink + share;
#pragma unroll
        for (int k = 0; k < 8; k++) total[k] = total[k] * shrink + share * value[k];
    }

    // Reduces the states of a warp.
    __device__ void join() {
        float most = highest;
#pragma unroll
        for (int step = 8; step < 32; step *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
        float shrink = highest == most ? 1 : __expf(highest - most);
        highest = most, weight *= shrink;
#pragma unroll
        for (int k = 0; k < 8; k++) total[k] *= shrink;
#pragma unroll
        for (int step = 8; step < 32; step *= 2) {
            weight += __shfl_xor_sync(~0u, weight, step);
#pragma unroll
            for (int k = 0; k < 8; k++) total[k] += __shfl_xor_sync(~0u, total[k], step);
        }
    }
};

// One head attends to the unmasked slots of earlier steps, and to its own. Each of the first HEAD_DIM threads gets a
// feature.
__device__ float attend(
    Shared &shared, const Mailbox &mailboxes, const Block &block, const u8 *mask, int slot, int capacity, int head,
    float scale) {
    constexpr int STREAMS = THREADS / 8;    // slots at once
    constexpr int AHEAD = 4;                // slots of each stream that are loaded before the query is there
    constexpr int LINE = HEAD_DIM + 2;         // of a warp: sums, the highest score, the weight
    static_assert(WARPS * LINE * 4 <= sizeof(shared.numbers), "the results of all warps fit there");
    float (*found)[LINE] = reinterpret_cast<float (*)[LINE]>(shared.numbers);
    int stream = threadIdx.x / 8, begin = threadIdx.x % 8 * 8;
    const u16 *keys = block.keys + u64(head) * capacity * HEAD_DIM + begin;
    const u16 *values = block.values + u64(head) * capacity * HEAD_DIM + begin;
    Attention state;
    float qkv[8];
#pragma unroll 1
    for (int first = 0; first == 0 || first < slot; first += STREAMS * AHEAD) {
        Half8 key[AHEAD], value[AHEAD];
        bool attends[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int other = first + i * STREAMS + stream;
            attends[i] = other < slot && mask[other];
            key[i] = value[i] = {};
            if (other < slot) key[i] = load8(keys + other * HEAD_DIM), value[i] = load8(values + other * HEAD_DIM);
        }
        if (first == 0) {
            Half8 query = wait_load8(mailboxes.qkv[0] + head * HEAD_DIM + begin);
#pragma unroll
            for (int k = 0; k < 8; k++) qkv[k] = query[k];
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) state.add(qkv, key[i], value[i], attends[i], scale);
    }
    if (stream < 4) {  // a warp
        Half8 key = wait_load8(mailboxes.qkv[1] + head * HEAD_DIM + begin);
        Half8 value = wait_load8(mailboxes.qkv[2] + head * HEAD_DIM + begin);
        state.add(qkv, key, value, stream == 0, scale);
    }
    state.join();
    if (threadIdx.x % 32 < 8) {
        int warp = threadIdx.x / 32;
#pragma unroll
        for (int k = 0; k < 8; k++) found[warp][begin + k] = state.total[k];
        if (begin == 0) found[warp][HEAD_DIM] = state.highest, found[warp][HEAD_DIM + 1] = state.weight;
    }
    sync_compute_threads();
    float most = minus_infinity(), all = 0, result = 0;
    if (threadIdx.x < HEAD_DIM) {
#pragma unroll
        for (int other = 0; other < WARPS; other++) most = fmaxf(most, found[other][HEAD_DIM]);
#pragma unroll
        for (int other = 0; other < WARPS; other++) {
            float share = __expf(found[other][HEAD_DIM] - most);
            all += share * found[other][HEAD_DIM + 1];
            result += share * found[other][threadIdx.x];
        }
    }
    sync_compute_threads();
    return result / all;
}
