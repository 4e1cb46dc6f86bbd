// Weights that lie in the order of the token: a row has 128 bytes of a group.

// Adds to the sums what a lane has of a group of two rows of a tile: a quarter of each half of it. Groups are as long
// as all banks, so every other one has its second half read first. How words are multiplied, and which of the token's
// meet them, is for the kind of weights to say: multiply_words, words_of.
template <class Sum>
__device__ void multiply_in_order(
    Shared &shared, const Lane &lane, const u8 *tile, int group, int all, Sum (&sums)[4]) {
    constexpr int UNITS = GROUP * BITS / 8 / 16;
    static_assert(UNITS == 8, "a group is as long as all banks");
    const uint4 *units = reinterpret_cast<const uint4 *>(tile);
#pragma unroll
    for (int turn = 0; turn < 2; turn++) {
        int place = (lane.which % 2 ^ turn) * 4 + lane.unit;
        uint4 first = units[lane.upper * (ROW_BYTES / 16) + group * UNITS + place];
        uint4 second = units[(lane.upper + 2) * (ROW_BYTES / 16) + group * UNITS + place];
        uint4 token = words_of(shared, lane, all * UNITS + place);
        multiply_words(sums, first.x, second.x, first.y, second.y, token.x, token.y);
        multiply_words(sums, first.z, second.z, first.w, second.w, token.z, token.w);
    }
}
