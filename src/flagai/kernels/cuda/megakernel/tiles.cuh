// Tiles of the matrices: who takes which, and how they come into the ring.

__device__ u32 address(const void *shared) { return u32(__cvta_generic_to_shared(shared)); }

__device__ void wait_for(u64 *barrier, u32 parity) {
    asm volatile("{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;"
                 " @!done bra again; }" :: "r"(address(barrier)), "r"(parity) : "memory");
}

__device__ void arrive(u64 *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(address(barrier)) : "memory");
}

// All threads that compute.
__device__ void together() { asm volatile("bar.sync 1, %0;" :: "n"(THREADS) : "memory"); }

// What a program does of a product, or of a part of it: of the rows of tiles from `begin` on, every gridDim.x-th.
struct Share {
    int first, count;

    __device__ Share(int begin, int end) {
        int programs = gridDim.x, after = (int(blockIdx.x) - begin) % programs;
        first = begin + (after < 0 ? after + programs : after);
        count = (end - first + programs - 1) / programs;
    }
};

// A place in the ring, and whether the ring has been gone round an even or an odd number of times.
struct Place {
    u32 slot, parity = 0;

    __device__ explicit Place(u32 first) : slot(first) {}
    __device__ void advance(u32 by) {
        slot += by;
        if (slot >= RING) slot -= RING, parity ^= 1;
    }
};

__device__ void fetch(const u8 *from, u8 *to, int bytes, u64 *barrier, u64 policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1], %2, [%3], %4;"
                 :: "r"(address(to)), "l"(from), "r"(bytes), "r"(address(barrier)), "l"(policy) : "memory");
}

// One warp fetches the words of all tiles, in the order in which they are needed, and another their steps, if there are
// any. These warps must be quick: nothing is divided for a tile, and rows that are neighbours are one copy.
__device__ void fetch_all(Shared &shared, bool steps) {
    int lane = threadIdx.x % 32, bytes = steps ? STEP_BYTES : ROW_BYTES, offset = steps ? ROWS * ROW_BYTES : 0;
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    Place place(0), earlier(0);
    int flying = 0;
#pragma unroll 1
    for (int index = 0; index < BLOCKS; index++) {
        const u8 *const *matrices = steps ? shared.blocks[index].steps : shared.blocks[index].words;
#pragma unroll 1
        for (int part = -2; part < 2 * PASSES; part++) {
            // Queries, keys and values; what attention gives; the parts of the wide products.
            int up = part >= 0 && part < PASSES ? part : 0, down = part < PASSES ? 0 : part - PASSES;
            int matrix = part < 0 ? (part + 2) * 3 : part < PASSES ? 4 : 5;
            Share share(up * SQUARE, part == -2 ? 3 * SQUARE : (up + 1) * SQUARE);
            int stride = part < PASSES ? LENGTH : LENGTH * PASSES, tiles = share.first;
            int copies = stride == 1 ? 1 : ROWS, size = ROWS / copies * bytes;
#pragma unroll 1
            for (int n = 0; n < share.count; n++, tiles += gridDim.x) {
                if (part == -2 && tiles >= SQUARE) tiles -= SQUARE, matrix++;
                const u8 *from = matrices[matrix] + (u64(tiles * ROWS + lane) * stride + down * LENGTH) * bytes;
#pragma unroll 1
                for (int column = 0; column < LENGTH; column++, from += bytes) {
                    u64 *full = &shared.full[place.slot];
                    wait_for(&shared.empty[place.slot], place.parity ^ 1);
                    if (flying < FLIGHT) flying++;
                    else wait_for(&shared.full[earlier.slot], earlier.parity), earlier.advance(1);
                    if (lane == 0)
                        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                                     :: "r"(address(full)), "r"(ROWS * bytes) : "memory");
                    __syncwarp();
                    if (lane < copies)
                        fetch(from, shared.ring[place.slot] + offset + lane * bytes, size, full, policy);
                    place.advance(1);
                }
            }
        }
    }
}
