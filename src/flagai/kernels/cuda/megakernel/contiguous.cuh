// Weights in the order of the token: a row has 128 bytes of a group.

// Accumulates a lane's part of a group of two rows of a tile: a quarter of each half of it. Groups are as long as all
// banks, so every other one has its second half read first. mma_words and words_of depend on the kind of weights.
template <class Sum>
__device__ void mma_contiguous(
    Shared &shared, const MmaLane &lane, const u8 *tile, int group, int all, Sum (&sums)[4]) {
    constexpr int UNITS = GROUP * BITS / 8 / 16;
    static_assert(UNITS == 8, "a group is as long as all banks");
    const uint4 *units = reinterpret_cast<const uint4 *>(tile);
#pragma unroll
    for (int blocks_done = 0; blocks_done < 2; blocks_done++) {
        int place = (lane.which % 2 ^ blocks_done) * 4 + lane.unit;
        uint4 first = units[lane.upper * (ROW_BYTES / 16) + group * UNITS + place];
        uint4 second = units[(lane.upper + 2) * (ROW_BYTES / 16) + group * UNITS + place];
        uint4 token = words_of(shared, lane, all * UNITS + place);
        mma_words(sums, first.x, second.x, first.y, second.y, token.x, token.y);
        mma_words(sums, first.z, second.z, first.w, second.w, token.z, token.w);
    }
}
