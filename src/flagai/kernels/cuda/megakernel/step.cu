// A decoding step of one token through all blocks of a decoder, in one kernel.
//
// A step is bound by reading weights, and which weights come next does not depend on the token. So this is a persistent
// kernel with warp specialization: one thread block (CTA) per SM, of which one or two producer warps only copy the
// CTA's tiles, block after block, into a ring in shared memory. All other warps compute with the tiles that have
// arrived. While these wait for other CTAs (a matmul needs all results of the one before), the memory goes on reading.
// The wide matmul of a block is computed part by part, and the matmul after it takes the parts as they come.
//
// CTAs exchange values through a mailbox in global memory with flag-in-data synchronization: a slot holds SENTINEL
// until its value is stored. There are two mailboxes, for even and for odd blocks. A CTA has a result of block g only
// after it has had all results of the stage before it in g (attention: of its head), to which all CTAs have
// contributed, which by then have read everything of block g - 1 that such a result is made of. So the CTA that stores
// a result of g may reset the same slot of g - 1 (hidden: with after_attention), and one fence in a block makes this
// visible before g + 1 uses these slots again.
//
// Compiler options: BITS (of a weight: 4 or 8), HIDDEN, INNER, HEADS (sizes of a block), BLOCKS (their number),
// BFLOAT (1: bfloat16, 0: float16), ACTIVATION (0 gelu, 1 gelu_tanh, 2 relu, 3 silu), RING (tiles in the ring),
// SPLITS (CTAs that share the keys of a head), IN_FLIGHT (tiles that are copied at once: more would delay all other
// reads), TILES (the most tiles of a matmul that one CTA takes), SHARED (bytes of shared memory).

#include "half.cuh"
#include "activation.cuh"
#include "layout.cuh"
#include "eight.cuh"
#include "tiles.cuh"
#include "mma_lane.cuh"
#include "int8_split.cuh"
#include "pack.cuh"
#include "matvec.cuh"
#include "attention.cuh"

// Prefetches some cached keys and values of a head in the next block into the L2 cache.
__device__ void prefetch_cache(const Block &block, const int *slots, int first, int end, int head) {
    for (int other = first + threadIdx.x; other < end; other += THREADS) {
        u64 place = cache_place(__ldg(slots + other), head);
        asm volatile("prefetch.global.L2 [%0];" :: "l"(block.keys + place));
        asm volatile("prefetch.global.L2 [%0];" :: "l"(block.values + place));
    }
}

// Stores a value, and resets the one of the block before.
__device__ void publish(u16 *now, u16 *before, u16 number) {
    store_relaxed(before, SENTINEL);
    store_relaxed(now, number);
}

// Arguments of the kernel.
struct StepArgs {
    const u16 *x;
    u16 *out;
    Mailbox *mailboxes;
    const int *slots;                          // of the token's keys
    int past;                                  // how many of them earlier steps wrote
    long long slot;                            // where this one goes
    float eps, scale;
    u32 blocks_done;                           // blocks computed by earlier steps
};

// A block: its parameters, its mailbox, and the mailbox of the block before.
struct BlockContext {
    const Block &block;
    const u16 *hidden;
    Mailbox &now, &last;
    int index;

    __device__ BlockContext(const Shared &shared, const StepArgs &step, int index)
        : block(shared.blocks[index]), now(step.mailboxes[(step.blocks_done + index) & 1]),
          last(step.mailboxes[(step.blocks_done + index + 1) & 1]), index(index) {
        hidden = index ? last.hidden : step.x;
    }
};

// The first half of a block: attention and its residual.
__device__ void attend_all(Shared &shared, const StepArgs &step, const BlockContext &context, RingCursor &progress) {
    const Block &block = context.block;
    Mailbox &now = context.now, &last = context.last;
    RowShare thrice(0, 3 * TILE_ROWS);
    OutputRow qkv(thrice);
    int matrix = qkv.row / HIDDEN, feature = qkv.row % HIDDEN;
    qkv.read(block, matrix, feature);
    pack_layer_norm(shared, context.hidden, context.index == 0, block.norm_weight[0], block.norm_bias[0], step.eps);
    matvec(shared, thrice, progress);
    u16 found = float_to_half(qkv.result(shared));
    if (qkv.real) {
        publish(&now.qkv[matrix][feature], &last.qkv[matrix][feature], found);
        if (matrix) (matrix == 1 ? block.keys : block.values)[step.slot * HIDDEN + feature] = found;
    }

    int splits = splits_of(step.past);
    for (int item = blockIdx.x; item < HEADS * SPLITS; item += gridDim.x) {
        int head = item % HEADS, split = item / HEADS, to = head * HEAD_DIM + threadIdx.x;
        // Also of splits that this step does not have: an earlier step may have had them.
        if (threadIdx.x < HEAD_DIM) store_relaxed(last.attention_out[split] + to, SENTINEL);
        if (threadIdx.x == 0) store_word(&last.levels[split][head], ~0u);
        if (split >= splits) continue;
        int first = split * step.past / splits, end = (split + 1) * step.past / splits;
        float level, number = attend(shared, now, block, step.slots, first, end, split == 0, head, step.scale, level);
        if (threadIdx.x < HEAD_DIM) store_relaxed(now.attention_out[split] + to, float_to_half(number));
        if (threadIdx.x == 0 && splits > 1) store_word(&now.levels[split][head], __float_as_uint(level));
        if (context.index + 1 < BLOCKS) prefetch_cache(shared.blocks[context.index + 1], step.slots, first, end, head);
    }

    RowShare square(0, TILE_ROWS);
    OutputRow row(square);
    row.read(block, 3, row.row);
    float before = half_to_float(load_half(context.hidden + row.row));
    pack_attention(shared, now, splits);
    matvec(shared, square, progress);
    found = float_to_half(round_to_half(row.result(shared)) + before);
    if (row.real) {
        publish(now.after_attention + row.row, last.after_attention + row.row, found);
        // All CTAs have read it; the fence of the second half must come after.
        store_relaxed(last.hidden + row.row, SENTINEL);
    }
}

// The second half: the feed-forward layer and its residual.
__device__ void feed_forward(Shared &shared, const StepArgs &step, const BlockContext &context, RingCursor &progress) {
    const Block &block = context.block;
    Mailbox &now = context.now, &last = context.last;
    pack_layer_norm(shared, now.after_attention, false, block.norm_weight[1], block.norm_bias[1], step.eps);
#pragma unroll 1
    for (int stage = 0; stage < STAGES; stage++) {
        RowShare part(stage * (SPAN / ROWS), (stage + 1) * (SPAN / ROWS));
        OutputRow inner(part);
        inner.read(block, 4, inner.row);
        matvec(shared, part, progress);
        u16 found = float_to_half(activation(round_to_half(inner.result(shared))));
        if (inner.real) publish(now.inner + inner.row, last.inner + inner.row, found);
        sync_compute_threads();
    }

    RowShare square(0, TILE_ROWS);
    OutputRow row(square);
    row.read(block, 5, row.row);
    float before = half_to_float(load_half(now.after_attention + row.row));
    // Slots are reset before any CTA reads them again. No CTA reads them before it has read a value that is stored
    // after this; in the hardware, that is enough for reads that stay in order.
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
#pragma unroll 1
    for (int stage = 0; stage < STAGES; stage++) {
        pack_when_ready<SPAN>(shared, now.inner + stage * SPAN);
        matvec<PASSES / STAGES>(shared, square, progress, stage * (PASSES / STAGES));
    }
    u16 found = float_to_half(round_to_half(row.result(shared, PASSES)) + before);
    if (row.real) {
        store_relaxed(now.hidden + row.row, found);
        if (context.index + 1 == BLOCKS) step.out[row.row] = found;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS + PRODUCER_WARPS * 32, 1) step_kernel(
    const Block *blocks, const u16 *x, u16 *out, Mailbox *mailboxes, u32 *blocks_done, const int *slots,
    const int *length, const long long *slot, float eps, float scale) {
    extern __shared__ __align__(128) u8 memory[];
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    for (int index = threadIdx.x; index < int(BLOCKS * sizeof(Block) / 8); index += blockDim.x)
        reinterpret_cast<u64 *>(shared.blocks)[index] = reinterpret_cast<const u64 *>(blocks)[index];
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < RING; slot++) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                         :: "r"(address(&shared.full[slot])), "n"(PRODUCER_WARPS));
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(address(&shared.empty[slot])), "n"(PARTS));
        }
        asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x >= THREADS) {
        produce_tiles(shared, threadIdx.x >= THREADS + 32);
        return;
    }
    // A token without keys attends to itself: nobody reads what comes of it.
    StepArgs step{x, out, mailboxes, slots, max(*length, 1) - 1, *slot, eps, scale, *blocks_done};
    RingCursor progress;
#pragma unroll 1
    for (int index = 0; index < BLOCKS; index++) {
        BlockContext context(shared, step, index);
        attend_all(shared, step, context, progress);
        feed_forward(shared, step, context, progress);
    }
    // No CTA ends before all have begun. The next step's first block resets the mailbox of the last block.
    if (blockIdx.x == 0 && threadIdx.x == 0) *blocks_done = step.blocks_done + BLOCKS;
}
