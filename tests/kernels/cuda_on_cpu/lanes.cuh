// What lanes do together, by memory that the threads of a warp share.

struct Warp {
    std::barrier<> all{32};
    u32 words[32][6];
};
thread_local Warp *warp;

// Every lane leaves words; then all read, and none goes on before all have read.
template <int COUNT, class Read> __device__ auto exchanged(const u32 (&mine)[COUNT], Read read) {
    std::copy(mine, mine + COUNT, warp->words[threadIdx.x % 32]);
    warp->all.arrive_and_wait();
    auto found = read();
    warp->all.arrive_and_wait();
    return found;
}

__device__ float sum_of_four(float number) {
    return exchanged({std::bit_cast<u32>(number)}, [] {
        float sum = 0;
        for (int lane = threadIdx.x % 32 / 4 * 4, end = lane + 4; lane < end; lane++)
            sum += std::bit_cast<float>(warp->words[lane][0]);
        return sum;
    });
}

__device__ uint4 load8(const u16 *place) {
    uint4 found;
    std::memcpy(&found, place, 16);
    return found;
}

__device__ uint4 load_once(const u16 *place) { return load8(place); }

// m16n8k16: word i of lane l holds two columns of row l / 4, and 8 rows or columns further on.
__device__ void mma(float (&sums)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    auto found = exchanged({a0, a1, a2, a3, b0, b1}, [] {
        std::array<float, 4> products{};
        int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
        for (int i = 0; i < 4; i++)
            for (int column = 0; column < 16; column++) {
                int lane = column % 8 / 2, shift = column % 2 * 16;
                u32 a = warp->words[group * 4 + lane][i / 2 + column / 8 * 2] >> shift;
                u32 b = warp->words[(pair + i % 2) * 4 + lane][4 + column / 8] >> shift;
                products[i] += half_to_float(u16(a)) * half_to_float(u16(b));
            }
        return products;
    });
    for (int i = 0; i < 4; i++) sums[i] += found[i];
}

__device__ void let_next_begin() {}

__device__ void wait_for_last() {}
