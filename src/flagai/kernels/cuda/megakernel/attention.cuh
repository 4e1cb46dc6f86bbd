// A head of a token attends to the cache.

__device__ float nothing() { return __uint_as_float(0xFF800000); }  // minus infinity

// An online softmax, by eight lanes with eight features each. A slot that is not seen changes nothing.
struct Attention {
    float total[8] = {}, highest = nothing(), weight = 0;

    __device__ void add(const float (&asked)[8], const Eight &key, const Eight &value, bool sees, float scale) {
        float score = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) score += asked[k] * key[k];
#pragma unroll
        for (int step = 1; step < 8; step *= 2) score += __shfl_xor_sync(~0u, score, step);
        score = sees ? score * scale : highest;
        float higher = fmaxf(highest, score), share = sees ? __expf(score - higher) : 0;
        float shrink = highest == higher ? 1 : __expf(highest - higher);
        highest = higher;
        weight = weight * shrink + share;
#pragma unroll
        for (int k = 0; k < 8; k++) total[k] = total[k] * shrink + share * value[k];
    }

    // All of a warp's.
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

// One head attends to the slots that its token sees: those of earlier steps, and its own. Each thread of the first
// WIDTH gets a feature.
__device__ float scaled_dot_product_attention(
    Shared &shared, const Notes &notes, const Block &block, const u8 *seen, int slot, int capacity, int head,
    float scale) {
    constexpr int STREAMS = THREADS / 8;    // slots at once
    constexpr int AHEAD = 4;                // of each stream, slots that are read before the query is there
    constexpr int LINE = WIDTH + 2;         // what a warp has found: sums, the highest score, the weight
    static_assert(WARPS * LINE * 4 <= sizeof(shared.numbers), "what warps have found fits there");
    float (*found)[LINE] = reinterpret_cast<float (*)[LINE]>(shared.numbers);
    int stream = threadIdx.x / 8, begin = threadIdx.x % 8 * 8;
    const u16 *keys = block.keys + u64(head) * capacity * WIDTH + begin;
    const u16 *values = block.values + u64(head) * capacity * WIDTH + begin;
    Attention state;
    float asked[8];
#pragma unroll 1
    for (int first = 0; first == 0 || first < slot; first += STREAMS * AHEAD) {
        Eight key[AHEAD], value[AHEAD];
        bool sees[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int other = first + i * STREAMS + stream;
            sees[i] = other < slot && seen[other];
            key[i] = value[i] = {};
            if (other < slot) key[i] = eight(keys + other * WIDTH), value[i] = eight(values + other * WIDTH);
        }
        if (first == 0) {
            Eight query = eight_awaited(notes.asked[0] + head * WIDTH + begin);
#pragma unroll
            for (int k = 0; k < 8; k++) asked[k] = query[k];
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) state.add(asked, key[i], value[i], sees[i], scale);
    }
    if (stream < 4) {  // a warp
        Eight key = eight_awaited(notes.asked[1] + head * WIDTH + begin);
        Eight value = eight_awaited(notes.asked[2] + head * WIDTH + begin);
        state.add(asked, key, value, stream == 0, scale);
    }
    state.join();
    if (threadIdx.x % 32 < 8) {
        int warp = threadIdx.x / 32;
#pragma unroll
        for (int k = 0; k < 8; k++) found[warp][begin + k] = state.total[k];
        if (begin == 0) found[warp][WIDTH] = state.highest, found[warp][WIDTH + 1] = state.weight;
    }
    together();
    float most = nothing(), all = 0, result = 0;
    if (threadIdx.x < WIDTH) {
#pragma unroll
        for (int other = 0; other < WARPS; other++) most = fmaxf(most, found[other][WIDTH]);
#pragma unroll
        for (int other = 0; other < WARPS; other++) {
            float share = __expf(found[other][WIDTH] - most);
            all += share * found[other][WIDTH + 1];
            result += share * found[other][threadIdx.x];
        }
    }
    together();
    return result / all;
}
