// A decoding step of one token through all blocks of a decoder, in one kernel.
//
// A step is bound by reading weights, and which weights come next does not depend on the token. So there is one program
// on every multiprocessor, of which one or two warps do nothing but fetch the tiles that are this program's, block
// after block, into a ring in shared memory. All other warps compute with what has arrived. While these wait for other
// programs (a product needs all results of the one before), the memory goes on reading. The wide product of a block is
// computed part by part, and the one after it takes the parts as they come.
//
// Programs wait for numbers themselves, not for a signal: where a number will be, there is MISSING before. Every such
// place (Notes) exists twice, for even and for odd blocks. A program has a result of block g only after it has had all
// results of the step of g before it (attention: its head's), to which all programs have contributed, who by then have
// read everything of block g - 1 that such a result is made of. So whoever tells a result of g may take back the same
// one of g - 1 (hidden: with middle), and one fence in a block makes sure that this is seen before g + 1 uses these
// places again.
//
// Given by the compiler's options: BITS (of a weight: 4, 8 or 16), HIDDEN, INNER, HEADS (sizes of a block), BLOCKS (how
// many there are), BFLOAT (1: bfloat16, 0: float16), ACTIVATION (0 gelu, 1 gelu_tanh, 2 relu, 3 silu), RING (tiles in
// the ring), FLIGHT (tiles that are asked for at once: more would keep others waiting for the memory), TILES (the most
// that one program takes of a product), SHARED (bytes of shared memory).

#include "layout.cuh"
#include "numbers.cuh"
#include "tiles.cuh"
#include "lanes.cuh"
#if BITS == 16
#include "sixteen_bits.cuh"
#else
#include "digits.cuh"
#endif
#include "tokens.cuh"
#include "products.cuh"
#include "attention.cuh"

// Brings what a head will scaled_dot_product_attention to in the next block into the second-level cache.
__device__ void bring(const Block &block, int head, int slot, int capacity) {
    for (int place = threadIdx.x * 64; place < slot * WIDTH; place += THREADS * 64) {
        u64 from = u64(head) * capacity * WIDTH + place;
        asm volatile("prefetch.global.L2 [%0];" :: "l"(block.keys + from));
        asm volatile("prefetch.global.L2 [%0];" :: "l"(block.values + from));
    }
}

// Tells a number, and takes back the one of the block before.
__device__ void exchange(u16 *now, u16 *before, u16 number) {
    tell(before, MISSING);
    tell(now, number);
}

// What a step is given.
struct Given {
    const u16 *x;
    u16 *out;
    Notes *notes;
    const u8 *seen;
    int slot, capacity;
    float eps, scale;
    u32 turn;                           // blocks that earlier steps have computed
};

// A block at work: what it is given, and what is told of it and of the one before.
struct Work {
    const Block &block;
    const u16 *hidden;
    Notes &now, &last;
    int index;

    __device__ Work(const Shared &shared, const Given &given, int index)
        : block(shared.blocks[index]), now(given.notes[(given.turn + index) & 1]),
          last(given.notes[(given.turn + index + 1) & 1]), index(index) {
        hidden = index ? last.hidden : given.x;
    }
};

// The first half of a block: attention, and what it adds.
__device__ void attend_all(Shared &shared, const Given &given, const Work &work, Progress &progress) {
    const Block &block = work.block;
    Notes &now = work.now, &last = work.last;
    Share thrice(0, 3 * SQUARE);
    Row asked(thrice);
    int matrix = asked.row / HIDDEN, feature = asked.row % HIDDEN;
    asked.read(block, matrix, feature);
    pack_normed(shared, work.hidden, work.index == 0, block.gain[0], block.shift[0], given.eps);
    multiply(shared, thrice, progress);
    u16 found = rounded(asked.result(shared));
    if (asked.real) {
        exchange(&now.asked[matrix][feature], &last.asked[matrix][feature], found);
        u64 to = (u64(feature / WIDTH) * given.capacity + given.slot) * WIDTH + feature % WIDTH;
        if (matrix) (matrix == 1 ? block.keys : block.values)[to] = found;
    }

    for (int head = blockIdx.x; head < HEADS; head += gridDim.x) {
        u16 number = rounded(scaled_dot_product_attention(shared, now, block, given.seen, given.slot, given.capacity, head, given.scale));
        int to = head * WIDTH + threadIdx.x;
        if (threadIdx.x < WIDTH) exchange(now.attended + to, last.attended + to, number);
        if (work.index + 1 < BLOCKS) bring(shared.blocks[work.index + 1], head, given.slot, given.capacity);
    }

    Share square(0, SQUARE);
    Row row(square);
    row.read(block, 3, row.row);
    float before = widened(one(work.hidden + row.row));
    pack_awaited(shared, now.attended);
    multiply(shared, square, progress);
    found = rounded(as_half(row.result(shared)) + before);
    if (row.real) {
        exchange(now.middle + row.row, last.middle + row.row, found);
        tell(last.hidden + row.row, MISSING);  // all have read it; the fence of the second half must come after
    }
}

// The second half: the feed-forward layer, and what it adds.
__device__ void feed_forward(Shared &shared, const Given &given, const Work &work, Progress &progress) {
    const Block &block = work.block;
    Notes &now = work.now, &last = work.last;
    pack_normed(shared, now.middle, false, block.gain[1], block.shift[1], given.eps);
#pragma unroll 1
    for (int pass = 0; pass < PASSES; pass++) {
        Share part(pass * SQUARE, (pass + 1) * SQUARE);
        Row inner(part);
        inner.read(block, 4, inner.row);
        multiply(shared, part, progress);
        u16 found = rounded(activated(as_half(inner.result(shared))));
        if (inner.real) exchange(now.inner + inner.row, last.inner + inner.row, found);
        together();
    }

    Share square(0, SQUARE);
    Row row(square);
    row.read(block, 5, row.row);
    float before = widened(one(now.middle + row.row));
    // What has been taken back is gone before anybody looks there again. Nobody looks without having read what is told
    // after this; in the hardware, that is enough for reads that stay in order.
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
#pragma unroll 1
    for (int pass = 0; pass < PASSES; pass++) {
        pack_awaited(shared, now.inner + pass * HIDDEN);
        multiply(shared, square, progress, pass);
    }
    u16 found = rounded(as_half(row.result(shared, PASSES)) + before);
    if (row.real) {
        tell(now.hidden + row.row, found);
        if (work.index + 1 == BLOCKS) given.out[row.row] = found;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS + FETCHERS * 32, 1) step_kernel(
    const Block *blocks, const u16 *x, u16 *out, Notes *notes, u32 *turn, const u8 *seen, const long long *now,
    int capacity, float eps, float scale) {
    extern __shared__ __align__(128) u8 memory[];
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    for (int index = threadIdx.x; index < int(BLOCKS * sizeof(Block) / 8); index += blockDim.x)
        reinterpret_cast<u64 *>(shared.blocks)[index] = reinterpret_cast<const u64 *>(blocks)[index];
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < RING; slot++) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(address(&shared.full[slot])), "n"(FETCHERS));
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(address(&shared.empty[slot])), "n"(PARTS));
        }
        asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x >= THREADS) {
        fetch_all(shared, threadIdx.x >= THREADS + 32);
        return;
    }
    Given given{x, out, notes, seen, int(*now), capacity, eps, scale, *turn};
    Progress progress;
#pragma unroll 1
    for (int index = 0; index < BLOCKS; index++) {
        Work work(shared, given, index);
        attend_all(shared, given, work, progress);
        feed_forward(shared, given, work, progress);
    }
    // Nobody ends before everybody has begun. The last block's notes are taken back by the next step's first.
    if (blockIdx.x == 0 && threadIdx.x == 0) *turn = given.turn + BLOCKS;
}
