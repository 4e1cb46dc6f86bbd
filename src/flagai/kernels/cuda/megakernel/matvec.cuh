// Matrix-vector products: the token times tiles.

// A warp's position: its next tile of the matmul, and the slot of the ring.
struct RingCursor {
    int next = threadIdx.x / 32 / PARTS;
    RingSlot place = RingSlot(next);
};

// The packed token times the tiles of this CTA, of some squares beside each other. Results of squares are contiguous.
template <int SQUARES = 1>
__device__ void matvec(Shared &shared, const RowShare &share, RingCursor &progress, int first_square = 0) {
    int &next = progress.next;
    RingSlot &place = progress.place;
    constexpr int STEPS = COLUMNS / GROUP / MMA_GROUPS / PARTS;
    int warp = threadIdx.x / 32, part = warp % PARTS;
    MmaLane lane;
    int of_square = share.count * TILES_PER_ROW, tiles = SQUARES * of_square, before = first_square * of_square;
#pragma unroll 1
    for (; next < tiles; next += SETS) {
        const u8 *tile = shared.ring[place.slot];
        int square = SQUARES > 1 ? next / of_square : 0;
        int groups = (square * TILES_PER_ROW + (next & (TILES_PER_ROW - 1))) * (COLUMNS / GROUP);
        float2 found = {};
        wait_for(&shared.full[place.slot], place.parity);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int group = (part * STEPS + step) * MMA_GROUPS + lane.which;
            mma_group(shared, lane, tile, group, groups + group, found);
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) arrive(&shared.empty[place.slot]);
        place.advance(SETS);
        found.x += __shfl_xor_sync(~0u, found.x, 2);
        found.y += __shfl_xor_sync(~0u, found.y, 2);
        if (lane.own && lane.high) {
            shared.results[before + next][part][lane.upper][lane.which] = found.x;
            shared.results[before + next][part][lane.upper + 2][lane.which] = found.y;
        }
    }
    next -= tiles;
    sync_compute_threads();
}

// The output row that a thread finishes, if it is real; else row 0, so that its loads are valid.
struct OutputRow {
    bool real;
    int row, tiles;
    float bias, scale = 1;

    __device__ explicit OutputRow(const RowShare &share) : tiles(share.count * TILES_PER_ROW) {
        real = threadIdx.x < share.count * ROWS;
        row = real ? (share.first + threadIdx.x / ROWS * gridDim.x) * ROWS + threadIdx.x % ROWS : 0;
    }

    // Loads the bias and scale of the row before they are needed.
    __device__ void read(const Block &block, int matrix, int row_of_matrix) {
        bias = half_to_float(load_half(block.bias[matrix] + row_of_matrix));
        if (BITS == 8) scale = reinterpret_cast<const float *>(block.steps[matrix])[row_of_matrix];
    }

    // The sum of matvec's results of the row, and its bias.
    __device__ float result(const Shared &shared, int passes = 1) const {
        float sum = 0;
        if (real)
            for (int pass = 0; pass < passes; pass++)
                for (int n = 0; n < TILES_PER_ROW; n++)
#pragma unroll
                    for (int part = 0; part < PARTS; part++) {
                        int tile = pass * tiles + threadIdx.x / ROWS * TILES_PER_ROW + n;
                        float4 four = *reinterpret_cast<const float4 *>(shared.results[tile][part][threadIdx.x % ROWS]);
                        sum += (four.x + four.y) + (four.z + four.w);
                    }
        return sum * scale + bias;
    }
};
