// Attention of a head of the token to the cache.

__device__ float minus_infinity() { return __uint_as_float(0xFF800000); }  // minus infinity

// Where a head's key or value lies in a pool.
__device__ u64 cache_place(int slot, int head) { return (u64(slot) * HEADS + head) * HEAD_DIM; }

// An online softmax, by eight lanes with eight features each. A key that is not there changes nothing.
struct Attention {
    float total[8] = {}, highest = minus_infinity(), weight = 0;

    __device__ void add(const float (&qkv)[8], const Half8 &key, const Half8 &value, bool there, float scale) {
        float score = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) score += qkv[k] * key[k];
#pragma unroll
        for (int step = 1; step < 8; step *= 2) score += __shfl_xor_sync(~0u, score, step);
        score = there ? score * scale : highest;
        float higher = fmaxf(highest, score), share = there ? __expf(score - higher) : 0;
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

constexpr int STREAMS = THREADS / 8;        // keys at once
constexpr int AHEAD = 4;                    // keys of each stream that are loaded before the query is there

// How many CTAs share the keys of a head: as many as there are, if all their keys can be loaded ahead.
__device__ int splits_of(int past) { return max(1, min(SPLITS, (past + STREAMS * AHEAD - 1) / (STREAMS * AHEAD))); }

// One head attends to the keys [first, end) of earlier steps, and to its own if `own`. Each of the first HEAD_DIM
// threads gets a feature; all get the level, the logarithm of the sum of exp(scores).
__device__ float attend(
    Shared &shared, const Mailbox &mailboxes, const Block &block, const int *slots, int first, int end, bool own,
    int head, float scale, float &level) {
    constexpr int LINE = HEAD_DIM + 2;         // of a warp: sums, the highest score, the weight
    static_assert(WARPS * LINE * 4 <= sizeof(shared.numbers), "the results of all warps fit there");
    float (*found)[LINE] = reinterpret_cast<float (*)[LINE]>(shared.numbers);
    int stream = threadIdx.x / 8, begin = threadIdx.x % 8 * 8;
    Attention state;
    float qkv[8];
#pragma unroll 1
    for (bool begun = false; !begun || first < end; first += STREAMS * AHEAD) {
        Half8 key[AHEAD], value[AHEAD];
        bool there[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int other = first + i * STREAMS + stream;
            there[i] = other < end;
            key[i] = value[i] = {};
            if (there[i]) {
                u64 place = cache_place(__ldg(slots + other), head) + begin;
                key[i] = load8(block.keys + place), value[i] = load8(block.values + place);
            }
        }
        if (!begun) {
            begun = true;
            Half8 query = wait_load8<true>(mailboxes.qkv[0] + head * HEAD_DIM + begin);
#pragma unroll
            for (int k = 0; k < 8; k++) qkv[k] = query[k];
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) state.add(qkv, key[i], value[i], there[i], scale);
    }
    if (own && stream < 4) {  // a warp
        Half8 key, value;
        do {
            key = load8(mailboxes.qkv[1] + head * HEAD_DIM + begin);
            value = load8(mailboxes.qkv[2] + head * HEAD_DIM + begin);
        } while (!__all_sync(~0u, key.complete() && value.complete()));
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
    level = most + __logf(all);
    return result / all;
}

// The results of a head's splits: eight features of a thread, once they are stored.
__device__ Half8 wait_load_splits(const Mailbox &mailbox, int place, int splits) {
    int head = place / HEAD_DIM;
    Half8 parts[SPLITS];
    float levels[SPLITS], most = minus_infinity(), all = 0, sums[8] = {};
    bool complete;
    do {
        complete = true;
#pragma unroll
        for (int split = 0; split < SPLITS; split++)
            if (split < splits) {
                parts[split] = load8(mailbox.attention_out[split] + place);
                u32 level = load_word(&mailbox.levels[split][head]);
                levels[split] = __uint_as_float(level);
                complete = complete && parts[split].complete() && level != ~0u;
            }
    } while (!__all_sync(~0u, complete));
#pragma unroll
    for (int split = 0; split < SPLITS; split++)
        if (split < splits) most = fmaxf(most, levels[split]);
#pragma unroll
    for (int split = 0; split < SPLITS; split++)
        if (split < splits) {
            float share = __expf(levels[split] - most);
            all += share;
#pragma unroll
            for (int k = 0; k < 8; k++) sums[k] += share * parts[split][k];
        }
    u32 pairs[4];
#pragma unroll
    for (int k = 0; k < 8; k += 2)
        pairs[k / 2] = float_to_half(sums[k] / all) | u32(float_to_half(sums[k + 1] / all)) << 16;
    return {{pairs[0], pairs[1], pairs[2], pairs[3]}};
}

// The results of all heads, packed.
__device__ void pack_attention(Shared &shared, const Mailbox &mailbox, int splits) {
    if (splits == 1) return pack_when_ready<HIDDEN>(shared, mailbox.attention_out[0]);
#pragma unroll
    for (int piece = 0; piece < PIECES && threadIdx.x < HIDDEN / 8; piece++)
        pack(shared, piece, wait_load_splits(mailbox, (piece * THREADS + threadIdx.x) * 8, splits));
    sync_compute_threads();
}
