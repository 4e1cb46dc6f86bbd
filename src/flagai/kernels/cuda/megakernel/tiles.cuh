// Tiles of the matrices: which CTA takes which, and how producer warps copy them into the ring.

__device__ u32 address(const void *shared) { return u32(__cvta_generic_to_shared(shared)); }

__device__ void wait_for(u64 *barrier, u32 parity) {
    asm volatile("{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;"
                 " @!done bra again; }" :: "r"(address(barrier)), "r"(parity) : "memory");
}

__device__ void arrive(u64 *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(address(barrier)) : "memory");
}

// A barrier of all threads that compute.
__device__ void sync_compute_threads() { asm volatile("bar.sync 1, %0;" :: "n"(THREADS) : "memory"); }

// A CTA's share of a matmul, or of a part of it: of the rows of tiles from `begin` on, every gridDim.x-th.
struct RowShare {
    int first, count;

    __device__ RowShare(int begin, int end) {
        int programs = gridDim.x, after = (int(blockIdx.x) - begin) % programs;
        first = begin + (after < 0 ? after + programs : after);
        count = (end - first + programs - 1) / programs;
    }
};

// A slot of the ring, and the parity of the number of rounds.
struct RingSlot {
    u32 slot, parity = 0;

    __device__ explicit RingSlot(u32 first) : slot(first) {}
    __device__ void advance(u32 by) {
        slot += by;
        if (slot >= RING) slot -= RING, parity ^= 1;
    }
};

__device__ void bulk_copy(const u8 *from, u8 *to, int bytes, u64 *barrier, u64 policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1], %2, [%3], %4;"
                 :: "r"(address(to)), "l"(from), "r"(bytes), "r"(address(barrier)), "l"(policy) : "memory");
}

// One producer warp copies the weights of all tiles, in the order in which they are needed, and another their scales,
// if there are any. These warps must be fast: no division per tile, and neighbouring rows are one copy.
__device__ void produce_tiles(Shared &shared, bool steps) {
    int lane = threadIdx.x % 32, bytes = steps ? STEP_BYTES : ROW_BYTES, offset = steps ? ROWS * ROW_BYTES : 0;
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    RingSlot place(0), earlier(0);
    int in_flight = 0;
#pragma unroll 1
    for (int index = 0; index < BLOCKS; index++) {
        const u8 *const *matrices = steps ? shared.blocks[index].steps : shared.blocks[index].words;
#pragma unroll 1
        for (int part = -2; part < 2 * PASSES; part++) {
            // q, k, v; out; the parts of the wide matmuls.
            int up = part >= 0 && part < PASSES ? part : 0, down = part < PASSES ? 0 : part - PASSES;
            int matrix = part < 0 ? (part + 2) * 3 : part < PASSES ? 4 : 5;
            RowShare share(up * TILE_ROWS, part == -2 ? 3 * TILE_ROWS : (up + 1) * TILE_ROWS);
            int stride = part < PASSES ? TILES_PER_ROW : TILES_PER_ROW * PASSES, tiles = share.first;
            int copies = stride == 1 ? 1 : ROWS, size = ROWS / copies * bytes;
#pragma unroll 1
            for (int n = 0; n < share.count; n++, tiles += gridDim.x) {
                if (part == -2 && tiles >= TILE_ROWS) tiles -= TILE_ROWS, matrix++;
                const u8 *from = matrices[matrix] + (u64(tiles * ROWS + lane) * stride + down * TILES_PER_ROW) * bytes;
#pragma unroll 1
                for (int column = 0; column < TILES_PER_ROW; column++, from += bytes) {
                    u64 *full = &shared.full[place.slot];
                    wait_for(&shared.empty[place.slot], place.parity ^ 1);
                    if (in_flight < IN_FLIGHT) in_flight++;
                    else wait_for(&shared.full[earlier.slot], earlier.parity), earlier.advance(1);
                    if (lane == 0)
                        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                                     :: "r"(address(full)), "r"(ROWS * bytes) : "memory");
                    __syncwarp();
                    if (lane < copies)
                        bulk_copy(from, shared.ring[place.slot] + offset + lane * bytes, size, full, policy);
                    place.advance(1);
                }
            }
        }
    }
}
