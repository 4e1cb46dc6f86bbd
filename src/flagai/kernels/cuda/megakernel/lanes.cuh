// Who computes what of a tile, whatever its weights are.

// Tensor cores take 16 rows and 8 columns at once. A row is (row of the tile, which of 4 neighbouring groups), and a
// column (digit, which of the 4 groups; of 16 bits there is one digit); only results of the same group are of use. So
// groups stay apart, which may have scales of their own. A lane holds a part of two rows, and gets the results of these
// rows with two columns: one of them may be of its own group.
struct Lane {
    int upper, which, unit;
    bool odd, high, own;
    float worth;                        // of the digit

    __device__ Lane() {
        int lane = threadIdx.x % 32;
        upper = lane / 16, which = lane / 4 % TOGETHER, unit = lane % 4;
        odd = which % 2, high = unit < 2, own = unit % 2 == which / 2;
        worth = high ? 256 : 1;
    }
};
