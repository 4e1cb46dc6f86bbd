// A token times tiles.

// Where a warp is: the next of a product's tiles that is its own, and its place in the ring.
struct Progress {
    int next = threadIdx.x / 32 / PARTS;
    Place place = Place(next);
};

// The packed token times some tiles of this multiprocessor. Results of pass after pass lie one after the other.
__device__ void multiply(Shared &shared, const Share &share, Progress &progress, int pass = 0) {
    int &next = progress.next;
    Place &place = progress.place;
    constexpr int STEPS = COLUMNS / GROUP / TOGETHER / PARTS;
    int warp = threadIdx.x / 32, part = warp % PARTS;
    Lane lane;
    int tiles = share.count * LENGTH, before = pass * tiles;
#pragma unroll 1
    for (; next < tiles; next += SETS) {
        const u8 *tile = shared.ring[place.slot];
        int groups = (next & (LENGTH - 1)) * (COLUMNS / GROUP);
        float2 found = {};
        wait_for(&shared.full[place.slot], place.parity);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int group = (part * STEPS + step) * TOGETHER + lane.which;
            multiply_group(shared, lane, tile, group, groups + group, found);
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
    together();
}

// The row of a product that a thread finishes, if it is real; else 0, so that what is read for it exists.
struct Row {
    bool real;
    int row, tiles;
    float bias, scale = 1;

    __device__ explicit Row(const Share &share) : tiles(share.count * LENGTH) {
        real = threadIdx.x < share.count * ROWS;
        row = real ? (share.first + threadIdx.x / ROWS * gridDim.x) * ROWS + threadIdx.x % ROWS : 0;
    }

    // Reads what belongs to the row before it is needed.
    __device__ void read(const Block &block, int matrix, int row_of_matrix) {
        bias = widened(one(block.bias[matrix] + row_of_matrix));
        if (BITS == 8) scale = reinterpret_cast<const float *>(block.steps[matrix])[row_of_matrix];
    }

    // What multiply has found for it, with its bias.
    __device__ float result(const Shared &shared, int passes = 1) const {
        float sum = 0;
        if (real)
            for (int pass = 0; pass < passes; pass++)
                for (int n = 0; n < LENGTH; n++)
#pragma unroll
                    for (int part = 0; part < PARTS; part++) {
                        int tile = pass * tiles + threadIdx.x / ROWS * LENGTH + n;
                        float4 four = *reinterpret_cast<const float4 *>(shared.results[tile][part][threadIdx.x % ROWS]);
                        sum += (four.x + four.y) + (four.z + four.w);
                    }
        return sum * scale + bias;
    }
};

__device__ float activated(float y) {
#if ACTIVATION == 0
    return 0.5f * y * (1 + erff(y * 0.7071067811865476f));
#elif ACTIVATION == 1
    return y / (1 + __expf(-1.5957691216057308f * (y + 0.044715f * y * y * y)));
#elif ACTIVATION == 2
    return fmaxf(y, 0);
#else
    return y / (1 + __expf(-y));
#endif
}
