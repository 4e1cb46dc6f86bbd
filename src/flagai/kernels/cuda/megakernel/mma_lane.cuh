// Which results of an mma a lane has, for all kinds of weights.

// An mma takes 16 rows and 8 columns. A row is (row of the tile, which of 4 neighbouring groups), and a column (high or
// low byte, which of the 4 groups); only results of the same group are used. So
// groups, which may have scales of their own, stay separate. A lane holds a part of two rows, and gets the results of
// these rows with two columns: one of them may be of its own group.
struct MmaLane {
    int upper, which, unit;
    bool odd, high, own;
    float weight_of_half;                        // 256 for the high byte

    __device__ MmaLane() {
        int lane = threadIdx.x % 32;
        upper = lane / 16, which = lane / 4 % MMA_GROUPS, unit = lane % 4;
        odd = which % 2, high = unit < 2, own = unit % 2 == which / 2;
        weight_of_half = high ? 256 : 1;
    }
};
