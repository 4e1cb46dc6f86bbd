// A decoding step of one token through all blocks of a decoder whose weights have four bits, in one kernel.
//
// A step is bound by reading weights, and which weights come next does not depend on the token. So there is one program on
// every multiprocessor, of which two warps do nothing but fetch the tiles that are this program's, block after block, into
// a ring in shared memory. All other warps compute with what has arrived. While these wait for other programs (a product
// needs all results of the one before), the memory goes on reading. The wide product of a block is computed part by part,
// and the one after it takes the parts as they come.
//
// Programs wait for numbers themselves, not for a signal: where a number will be, there is MISSING before. Every such
// place (Notes) exists twice, for even and for odd blocks. A program has a result of block g only after it has had all
// results of the step of g before it (attention: its head's), to which all programs have contributed, who by then have
// read everything of block g - 1 that such a result is made of. So whoever tells a result of g may take back the same
// one of g - 1 (hidden: with middle), and one fence in a block makes sure that this is seen before g + 1 uses these
// places again.
//
// Weights lie as flagai.checkpoint.quantised says: in unit u (four words) of a group of 128 numbers, nibble j of word w is
// number 16 j + 4 u + w. Four nibbles of a word are four bytes by one operation, and tensor cores multiply bytes. So a
// token becomes two digits of eight bits, after a power of two for each group: in bfloat16, numbers above a 64th of the
// group's largest stay as they are, and no error is above a 16384th of the largest.
//
// Given by the compiler's options: HIDDEN, INNER, HEADS (sizes of a block), BLOCKS (how many there are), BFLOAT
// (1: bfloat16, 0: float16), ACTIVATION (0 gelu, 1 gelu_tanh, 2 relu, 3 silu), RING (tiles in the ring), FLIGHT (tiles
// that are asked for at once: more would keep others waiting for the memory), TILES (the most that one program takes of a
// product), SHARED (bytes of shared memory).

#include "layout.cuh"
#include "numbers.cuh"
#include "tiles.cuh"
#include "tokens.cuh"
#include "products.cuh"
#include "attention.cuh"

// Brings what a head will attend to in the next block into the second-level cache.
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

__device__ void compute_all(
    Shared &shared, const u16 *x, u16 *out, Notes *notes, const u8 *seen, int slot, int capacity, float eps, float scale,
    u32 turn) {
    int next = threadIdx.x / 32 / PARTS;  // of this product's tiles, for this warp
    Place place(next);
#pragma unroll 1
    for (int index = 0; index < BLOCKS; index++) {
        const Block &block = shared.blocks[index];
        Notes &now = notes[(turn + index) & 1], &last = notes[(turn + index + 1) & 1];
        const u16 *hidden = index ? last.hidden : x;

        Share thrice(0, 3 * SQUARE);
        Row asked(thrice);
        int matrix = asked.row / HIDDEN, feature = asked.row % HIDDEN;
        float bias = widened(one(block.bias[matrix] + feature));
        pack_normed(shared, hidden, index == 0, block.gain[0], block.shift[0], eps);
        multiply(shared, thrice, place, next);
        u16 found = rounded(result_of(shared, thrice) + bias);
        if (asked.real) {
            exchange(&now.asked[matrix][feature], &last.asked[matrix][feature], found);
            u64 to = (u64(feature / WIDTH) * capacity + slot) * WIDTH + feature % WIDTH;
            if (matrix) (matrix == 1 ? block.keys : block.values)[to] = found;
        }

        for (int head = blockIdx.x; head < HEADS; head += gridDim.x) {
            u16 number = rounded(attend(shared, now, block, seen, slot, capacity, head, scale));
            int to = head * WIDTH + threadIdx.x;
            if (threadIdx.x < WIDTH) exchange(now.attended + to, last.attended + to, number);
            if (index + 1 < BLOCKS) bring(shared.blocks[index + 1], head, slot, capacity);
        }

        Share square(0, SQUARE);
        Row row(square);
        bias = widened(one(block.bias[3] + row.row));
        float before = widened(one(hidden + row.row));
        pack_awaited(shared, now.attended);
        multiply(shared, square, place, next);
        found = rounded(as_half(result_of(shared, square) + bias) + before);
        if (row.real) {
            exchange(now.middle + row.row, last.middle + row.row, found);
            tell(last.hidden + row.row, MISSING);  // all have read it; the fence below must come after
        }

        pack_normed(shared, now.middle, false, block.gain[1], block.shift[1], eps);
#pragma unroll 1
        for (int pass = 0; pass < PASSES; pass++) {
            Share part(pass * SQUARE, (pass + 1) * SQUARE);
            Row inner(part);
            bias = widened(one(block.bias[4] + inner.row));
            multiply(shared, part, place, next);
            found = rounded(activated(as_half(result_of(shared, part) + bias)));
            if (inner.real) exchange(now.inner + inner.row, last.inner + inner.row, found);
            together();
        }

        bias = widened(one(block.bias[5] + row.row));
        before = widened(one(now.middle + row.row));
        // What has been taken back is gone before anybody looks there again. Nobody looks without having read what is told
        // after this; in the hardware, that is enough for reads that stay in order.
        asm volatile("fence.acq_rel.gpu;" ::: "memory");
#pragma unroll 1
        for (int pass = 0; pass < PASSES; pass++) {
            pack_awaited(shared, now.inner + pass * HIDDEN);
            multiply(shared, square, place, next, pass);
        }
        found = rounded(as_half(result_of(shared, square, PASSES) + bias) + before);
        if (row.real) {
            tell(now.hidden + row.row, found);
            if (index + 1 == BLOCKS) out[row.row] = found;
        }
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
    u32 began = *turn;
    compute_all(shared, x, out, notes, seen, int(*now), capacity, eps, scale, began);
    // Nobody ends before everybody has begun. The last block's notes are taken back by the next step's first.
    if (blockIdx.x == 0 && threadIdx.x == 0) *turn = began + BLOCKS;
}
