// A decoding step of one token through all blocks of a decoder whose weights have four bits, in one kernel.
//
// A step is bound by reading weights, and which weights come next does not depend on the token. So one warp of every
// multiprocessor does nothing but fetch the tiles that are this multiprocessor's, block after block, into a ring in
// shared memory; it never waits for anything but room. All other warps compute with what has arrived. While they wait
// for other multiprocessors (every product needs all results of the one before), the memory goes on reading.
// The wide product of a block is computed part by part, and the one after it takes the parts as they come.
//
// Multiprocessors wait for numbers themselves, not for a signal: where a number will be, there are bits before that no
// result ever has (MISSING). Every place of this kind exists twice, for even and for odd blocks; who writes into one
// takes back what it wrote into the other, which everybody has read by then: the next block would not be there else.
//
// Weights lie as flagai.checkpoint.quantised says: a unit of four words has 32 numbers of a group of 128, nibble j of
// word w being number 16 j + w of the unit's start. Four nibbles of a word are four bytes by one operation, and tensor
// cores multiply bytes. So a token becomes two digits of eight bits, after a power of two for each group: numbers above a
// 64th of the group's largest stay as they are in bfloat16, and no error is above a 32768th of it. Of 16 rows that tensor
// cores take, each is a quarter of the groups of a row of weights; of 8 columns, each is such a quarter of a digit. Most
// of these products are of no use, but they cost nothing.
//
// Given by the compiler's options: HIDDEN, INNER, HEADS (sizes of a block), BLOCKS (how many there are), BFLOAT
// (1: bfloat16, 0: float16), ACTIVATION (0 gelu, 1 gelu_tanh, 2 relu, 3 silu), RING (tiles in the ring), FLIGHT (tiles
// that are asked for at once: more would keep others waiting for the memory), TILES (the most that one multiprocessor
// takes of a product).

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int WIDTH = HIDDEN / HEADS;       // features of a head
constexpr int GROUP = 128;                  // numbers that share a step
constexpr int ROWS = 4;                     // of a tile
constexpr int COLUMNS = 4096;
constexpr int ROW_BYTES = COLUMNS / 2;
constexpr int STEP_BYTES = COLUMNS / GROUP * 4;
constexpr int TILE_BYTES = ROWS * (ROW_BYTES + STEP_BYTES);
constexpr int PARTS = 4;                    // of a tile, one for a warp
constexpr int QUARTERS = 4;                 // of a part's groups, which tensor cores take for rows
constexpr int SETS = 4;                     // tiles that are computed at once
constexpr int WARPS = SETS * PARTS;
constexpr int THREADS = WARPS * 32;         // that compute
constexpr int FETCHERS = 2;                 // warps
constexpr int LENGTH = HIDDEN / COLUMNS;    // tiles that make up a row of HIDDEN numbers
constexpr int SQUARE = HIDDEN / ROWS;       // rows of tiles that make up HIDDEN rows
constexpr int PASSES = INNER / HIDDEN;      // parts of the wide products
constexpr u32 MISSING = 0xFFFF;
static_assert(HIDDEN % COLUMNS == 0 && (LENGTH & (LENGTH - 1)) == 0, "tiles make up rows");
static_assert(INNER % HIDDEN == 0, "parts of wide products are squares");
static_assert(HIDDEN % (8 * THREADS) == 0, "threads take eight numbers at a time");
static_assert(RING > SETS, "a set takes every SETS-th tile");
static_assert(WIDTH == 64, "eight lanes attend to a slot, eight features each");

// Where a block's parameters are: queries, keys, values, out, up, down; two norms; and its cache.
struct Block {
    const u8 *words[6];
    const u8 *steps[6];
    const u16 *bias[6];
    const u16 *gain[2];
    const u16 *shift[2];
    u16 *keys;
    u16 *values;
};

// What multiprocessors tell each other.
struct Notes {
    u16 asked[3][HIDDEN];                   // query, key and value
    u16 attended[HIDDEN];
    u16 middle[HIDDEN];
    u16 inner[INNER];
    u16 hidden[HIDDEN];
};

struct Shared {
    u8 ring[RING][TILE_BYTES];              // ROWS rows, and their steps
    uint4 digits[2][HIDDEN / 16];           // a token, high and low; four words for each half of a unit
    float2 scales[HIDDEN / GROUP];          // what products of a group must be multiplied by; the sum of its numbers
    u16 numbers[WARPS][2 * GROUP];          // of the token, on their way
    float results[TILES][PARTS][ROWS][QUARTERS];
    float moments[2][WARPS];
    u64 full[RING];
    u64 empty[RING];
    Block blocks[BLOCKS];
};

// Half precision ---------------------------------------------------------------------------------------------------

__device__ float widened(u16 number) {
#if BFLOAT
    return __uint_as_float(u32(number) << 16);
#else
    float found;
    asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"(number));
    return found;
#endif
}

__device__ u16 rounded(float number) {
    u16 found;
#if BFLOAT
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(found) : "f"(number));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(found) : "f"(number));
#endif
    return found;
}

__device__ float as_half(float number) { return widened(rounded(number)); }

// Byte number `which` of four numbers.
__device__ u32 bytes_of(u32 a, u32 b, u32 c, u32 d, u32 which) {
    u32 select = which | (which + 4) << 4;
    return __byte_perm(__byte_perm(a, b, select), __byte_perm(c, d, select), 0x5410);
}

// Eight numbers in a row.
struct Eight {
    uint4 bits;

    __device__ float operator[](int i) const {
        u32 pair = i < 2 ? bits.x : i < 4 ? bits.y : i < 6 ? bits.z : bits.w;
        return widened(u16(i % 2 ? pair >> 16 : pair));
    }
    __device__ static bool lacks(u32 pair) { return (pair & MISSING) == MISSING || pair >> 16 == MISSING; }
    __device__ bool complete() const { return !(lacks(bits.x) || lacks(bits.y) || lacks(bits.z) || lacks(bits.w)); }
};

// Past the first-level cache, which does not hear of what other multiprocessors write.
__device__ Eight eight(const u16 *place) {
    Eight found;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(found.bits.x), "=r"(found.bits.y), "=r"(found.bits.z), "=r"(found.bits.w)
                 : "l"(place) : "memory");
    return found;
}

__device__ Eight eight_awaited(const u16 *place) {
    Eight found;
    do found = eight(place); while (!found.complete());
    __syncwarp();
    return found;
}

__device__ u16 one(const u16 *place) {
    u16 found;
    asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(found) : "l"(place) : "memory");
    return found;
}

__device__ void tell(u16 *place, u16 number) {
    asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" :: "l"(place), "h"(number) : "memory");
}

// Waiting within a multiprocessor ----------------------------------------------------------------------------------

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

// Tiles ------------------------------------------------------------------------------------------------------------

// What a multiprocessor does of a part of a product: every so manieth row of tiles, from `begin` on.
struct Share {
    int first, count;

    __device__ Share(int begin, int end) {
        int programs = gridDim.x, after = (int(blockIdx.x) - begin) % programs;
        first = begin + (after < 0 ? after + programs : after);
        count = (end - first + programs - 1) / programs;
    }
};

// A place in the ring, and whether it has been used an even or an odd number of times.
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

// One warp fetches the words of all tiles, in the order in which they are needed, and another their steps. They must be
// quick, so they do not divide, and copy rows together where these are neighbours.
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

// Tokens -----------------------------------------------------------------------------------------------------------

// Where the words for half a unit are; in this order, neither who writes nor who reads meets a bank twice.
__device__ int digits_of(int unit, int half) { return unit * 2 + (half ^ (unit / 4 & 1)); }

// Makes digits of some numbers of the token: a lane has eight neighbours, and gets the eight that meet a word.
__device__ void pack(Shared &shared, int piece, uint4 bits) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, w = lane % 4;
    int unit = (piece * THREADS + threadIdx.x) / 4;
    reinterpret_cast<uint4 *>(shared.numbers[warp])[lane] = bits;
    __syncwarp();
    float numbers[8], most = 0, sum = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        numbers[j] = widened(shared.numbers[warp][lane / 16 * GROUP + lane % 16 + 16 * j]);
        most = fmaxf(most, fabsf(numbers[j]));
        sum += numbers[j];
    }
#pragma unroll
    for (int step = 1; step < 16; step *= 2) {
        most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
        sum += __shfl_xor_sync(~0u, sum, step);
    }
    // The largest number of a group becomes one of [2 ** 13, 2 ** 14).
    int exponent = min(max(int(__float_as_uint(most) >> 23), 14), 253);
    float factor = __uint_as_float(u32(267 - exponent) << 23);
    u32 low[8], high[8];
#pragma unroll
    for (int j = 0; j < 8; j++) low[j] = __float2int_rn(numbers[j] * factor), high[j] = low[j] + 128;
    u32 place = digits_of(unit, w / 2) * 2 + w % 2;
    reinterpret_cast<uint2 *>(shared.digits[0])[place] = {
        bytes_of(high[0], high[2], high[4], high[6], 1), bytes_of(high[1], high[3], high[5], high[7], 1)};
    reinterpret_cast<uint2 *>(shared.digits[1])[place] = {
        bytes_of(low[0], low[2], low[4], low[6], 0), bytes_of(low[1], low[3], low[5], low[7], 0)};
    if (lane % 16 == 0) shared.scales[unit / 4] = {__uint_as_float(u32(exponent - 13) << 23), sum};
    __syncwarp();
}

__device__ float added_up(float number) {
#pragma unroll
    for (int step = 16; step; step /= 2) number += __shfl_xor_sync(~0u, number, step);
    return number;
}

// x is there already, or will be.
__device__ void pack_normed(
    Shared &shared, const u16 *x, bool there, const u16 *gain, const u16 *shift, float eps) {
    constexpr int PIECES = HIDDEN / (8 * THREADS), OF_WARP = HIDDEN / WARPS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Eight gains[PIECES], shifts[PIECES], numbers[PIECES];
    float sum = 0, squares = 0;
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        int place = (piece * THREADS + threadIdx.x) * 8;
        gains[piece] = eight(gain + place);
        shifts[piece] = eight(shift + place);
    }
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        int place = (piece * THREADS + threadIdx.x) * 8;
        numbers[piece] = there ? eight(x + place) : eight_awaited(x + place);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += numbers[piece][i];
    }
    float of_warp = added_up(sum) / OF_WARP;
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++)
#pragma unroll
        for (int i = 0; i < 8; i++) squares += (numbers[piece][i] - of_warp) * (numbers[piece][i] - of_warp);
    squares = added_up(squares);
    if (lane == 0) {
        shared.moments[0][warp] = of_warp;
        shared.moments[1][warp] = squares;
    }
    together();
    float mean = 0, variance = 0;
#pragma unroll
    for (int other = 0; other < WARPS; other++) mean += shared.moments[0][other];
    mean /= WARPS;
#pragma unroll
    for (int other = 0; other < WARPS; other++) {
        float apart = shared.moments[0][other] - mean;
        variance += shared.moments[1][other] + OF_WARP * apart * apart;
    }
    float rate = rsqrtf(variance / HIDDEN + eps);
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        u32 pairs[4];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            u32 number = rounded((numbers[piece][i] - mean) * rate * gains[piece][i] + shifts[piece][i]);
            pairs[i / 2] = i % 2 ? pairs[i / 2] | number << 16 : number;
        }
        pack(shared, piece, {pairs[0], pairs[1], pairs[2], pairs[3]});
    }
    together();
}

// HIDDEN numbers that will be there.
__device__ void pack_awaited(Shared &shared, const u16 *x) {
#pragma unroll
    for (int piece = 0; piece < HIDDEN / (8 * THREADS); piece++)
        pack(shared, piece, eight_awaited(x + (piece * THREADS + threadIdx.x) * 8).bits);
    together();
}

// Products ---------------------------------------------------------------------------------------------------------

// The row of a product that a thread finishes, if any.
struct Row {
    bool real;
    int row;

    __device__ explicit Row(const Share &share) {
        real = threadIdx.x < share.count * ROWS;
        row = real ? (share.first + threadIdx.x / ROWS * gridDim.x) * ROWS + threadIdx.x % ROWS : 0;
    }
};

// Nibbles of a word of two rows times bytes; 16 rows, 8 columns, and 32 numbers that are added up.
__device__ void multiply_nibbles(int (&sums)[4], u32 first, u32 second, u32 even, u32 odd) {
    constexpr u32 NIBBLES = 0x0F0F0F0F;
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
        " {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(first & NIBBLES), "r"(second & NIBBLES), "r"(first >> 4 & NIBBLES), "r"(second >> 4 & NIBBLES), "r"(even),
          "r"(odd));
}

// A whole number below 2 ** 22, by its bits.
__device__ float as_float(int number) { return __int_as_float(0x4B400000 + number) - 12582912.0f; }

// The packed token times some tiles of this multiprocessor. Results of pass after pass lie one after the other.
//
// Tensor cores' rows are (row of the tile, quarter), and their columns (digit, quarter); groups of a quarter are 4 apart.
// A lane holds a unit of two rows. It gets, of both, the products with two quarters of a digit.
__device__ void multiply(Shared &shared, const Share &share, Place &place, int &next, int pass = 0) {
    constexpr int STEPS = COLUMNS / GROUP / QUARTERS / PARTS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = warp % PARTS;
    int upper = lane / 16, quarter = lane / 4 % QUARTERS, unit = lane % 4;
    bool odd = quarter % 2, high = unit < 2, own = unit % 2 == quarter / 2;
    float worth = high ? 256 : 1;
    int tiles = share.count * LENGTH, before = pass * tiles;
#pragma unroll 1
    for (; next < tiles; next += SETS) {
        const uint4 *units = reinterpret_cast<const uint4 *>(shared.ring[place.slot]);
        const u32 *steps = reinterpret_cast<const u32 *>(shared.ring[place.slot] + ROWS * ROW_BYTES);
        int groups = (next & (LENGTH - 1)) * (COLUMNS / GROUP);
        float first_sum = 0, second_sum = 0;
        wait_for(&shared.full[place.slot], place.parity);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            int group = (part * STEPS + step) * QUARTERS + quarter;
            uint4 first = units[upper * (ROW_BYTES / 16) + group * 4 + unit];
            uint4 second = units[(upper + 2) * (ROW_BYTES / 16) + group * 4 + unit];
            u32 first_step = steps[upper * (COLUMNS / GROUP) + group];
            u32 second_step = steps[(upper + 2) * (COLUMNS / GROUP) + group];
            float2 scale = shared.scales[groups + group];
            uint4 front = shared.digits[upper][digits_of((groups + group) * 4 + unit, 0)];
            uint4 back = shared.digits[upper][digits_of((groups + group) * 4 + unit, 1)];
            int sums[4] = {};
            multiply_nibbles(sums, first.x, second.x, front.x, front.y);
            multiply_nibbles(sums, first.y, second.y, front.z, front.w);
            multiply_nibbles(sums, first.z, second.z, back.x, back.y);
            multiply_nibbles(sums, first.w, second.w, back.z, back.w);
            float by = scale.x * worth, plain = high ? scale.y : 0;
            first_sum += as_float(odd ? sums[1] : sums[0]) * (__uint_as_float(first_step << 16) * by)
                + plain * __uint_as_float(first_step & 0xFFFF0000);
            second_sum += as_float(odd ? sums[3] : sums[2]) * (__uint_as_float(second_step << 16) * by)
                + plain * __uint_as_float(second_step & 0xFFFF0000);
        }
        __syncwarp();
        if (lane == 0) arrive(&shared.empty[place.slot]);
        place.advance(SETS);
        first_sum += __shfl_xor_sync(~0u, first_sum, 2);
        second_sum += __shfl_xor_sync(~0u, second_sum, 2);
        if (own && high) {
            shared.results[before + next][part][upper][quarter] = first_sum;
            shared.results[before + next][part][upper + 2][quarter] = second_sum;
        }
    }
    next -= tiles;
    together();
}

// What multiply has found for a thread's row.
__device__ float result_of(const Shared &shared, const Share &share, int passes = 1) {
    float result = 0;
    if (threadIdx.x < share.count * ROWS)
        for (int pass = 0; pass < passes; pass++)
            for (int n = 0; n < LENGTH; n++)
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    int tile = (pass * share.count + threadIdx.x / ROWS) * LENGTH + n;
                    float4 four = *reinterpret_cast<const float4 *>(shared.results[tile][part][threadIdx.x % ROWS]);
                    result += (four.x + four.y) + (four.z + four.w);
                }
    return result;
}

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

// Attention --------------------------------------------------------------------------------------------------------

__device__ float nothing() { return __uint_as_float(0xFF800000); }  // minus infinity

// A softmax that is computed as it goes, by eight lanes with eight features each.
struct Attention {
    float total[8] = {}, highest = nothing(), weight = 0;

    __device__ void add(const float (&asked)[8], const Eight &key, const Eight &value, bool sees, float scale) {
        float score = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) score += asked[k] * key[k];
#pragma unroll
        for (int step = 1; step < 8; step *= 2) score += __shfl_xor_sync(~0u, score, step);
        score = sees ? score * scale : highest;
        float higher = fmaxf(highest, score), share = sees ? __expf(score - higher) : 0;
        float shrink = highest == higher ? 1 : __expf(highest - higher);
        highest = higher;
        weight = weight * shrink + share;
#pragma unroll
        for (int k = 0; k < 8; k++) total[k] = total[k] * shrink + share * value[k];
    }

    // All of a warp's.
    __device__ void join() {
        float most = highest;
#pragma unroll
        for (int step = 8; step < 32; step *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
        float shrink = highest == most ? 1 : __expf(highest - most);
        highest = most, weight *= shrink;
#pragma unroll
        for (int k = 0; k < 8; k++) total[k] *= shrink;
#pragma unroll
        for (int step = 8; step < 32; step *= 2) {
            weight += __shfl_xor_sync(~0u, weight, step);
#pragma unroll
            for (int k = 0; k < 8; k++) total[k] += __shfl_xor_sync(~0u, total[k], step);
        }
    }
};

// One head attends to the slots that its token sees: those of earlier steps, and its own. Each thread of the first
// WIDTH gets a feature.
__device__ float attend(
    Shared &shared, const Notes &notes, const Block &block, const u8 *seen, int slot, int capacity, int head,
    float scale) {
    constexpr int STREAMS = THREADS / 8, LINE = WIDTH + 2, AHEAD = 4;
    static_assert(WARPS * LINE * 4 <= sizeof(shared.numbers), "what warps have found fits there");
    float (*found)[LINE] = reinterpret_cast<float (*)[LINE]>(shared.numbers);
    int stream = threadIdx.x / 8, begin = threadIdx.x % 8 * 8;
    const u16 *keys = block.keys + u64(head) * capacity * WIDTH + begin;
    const u16 *values = block.values + u64(head) * capacity * WIDTH + begin;
    Attention state;
    float asked[8];
#pragma unroll 1
    for (int first = 0; first == 0 || first < slot; first += STREAMS * AHEAD) {
        Eight key[AHEAD], value[AHEAD];
        bool sees[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int other = first + i * STREAMS + stream;
            sees[i] = other < slot && seen[other];
            key[i] = value[i] = {};
            if (other < slot) key[i] = eight(keys + other * WIDTH), value[i] = eight(values + other * WIDTH);
        }
        if (first == 0) {
            Eight query = eight_awaited(notes.asked[0] + head * WIDTH + begin);
#pragma unroll
            for (int k = 0; k < 8; k++) asked[k] = query[k];
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) state.add(asked, key[i], value[i], sees[i], scale);
    }
    if (stream < 4) {  // a warp
        Eight key = eight_awaited(notes.asked[1] + head * WIDTH + begin);
        Eight value = eight_awaited(notes.asked[2] + head * WIDTH + begin);
        state.add(asked, key, value, stream == 0, scale);
    }
    state.join();
    if (threadIdx.x % 32 < 8) {
        int warp = threadIdx.x / 32;
#pragma unroll
        for (int k = 0; k < 8; k++) found[warp][begin + k] = state.total[k];
        if (begin == 0) found[warp][WIDTH] = state.highest, found[warp][WIDTH + 1] = state.weight;
    }
    together();
    float most = nothing(), all = 0, result = 0;
    if (threadIdx.x < WIDTH) {
#pragma unroll
        for (int other = 0; other < WARPS; other++) most = fmaxf(most, found[other][WIDTH]);
#pragma unroll
        for (int other = 0; other < WARPS; other++) {
            float share = __expf(found[other][WIDTH] - most);
            all += share * found[other][WIDTH + 1];
            result += share * found[other][threadIdx.x];
        }
    }
    together();
    return result / all;
}

// The step ---------------------------------------------------------------------------------------------------------

// Brings some bytes into the second-level cache; all multiprocessors share the work, 128 bytes a thread.
__device__ void bring(const void *from, int bytes) {
    int place = (threadIdx.x * gridDim.x + blockIdx.x) * 128;
    if (place < bytes) asm volatile("prefetch.global.L2 [%0];" :: "l"(static_cast<const u8 *>(from) + place));
}

// What a block needs besides its tiles. It is little, but everybody waits for it, and a busy memory answers late.
__device__ void bring_block(const Block &block, int slot, int capacity) {
    for (int i = 0; i < 6; i++) bring(block.bias[i], (i == 4 ? INNER : HIDDEN) * 2);
    for (int i = 0; i < 2; i++) bring(block.gain[i], HIDDEN * 2), bring(block.shift[i], HIDDEN * 2);
    for (int head = blockIdx.x; head < HEADS; head += gridDim.x)
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
    bring_block(shared.blocks[0], slot, capacity);
#pragma unroll 1
    for (int index = 0; index < BLOCKS; index++) {
        const Block &block = shared.blocks[index];
        Notes &now = notes[(turn + index) & 1], &last = notes[(turn + index + 1) & 1];
        const u16 *hidden = index ? last.hidden : x;
        if (index + 1 < BLOCKS) bring_block(shared.blocks[index + 1], slot, capacity);

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
        }

        Share square(0, SQUARE);
        Row row(square);
        bias = widened(one(block.bias[3] + row.row));
        float before = widened(one(hidden + row.row));
        pack_awaited(shared, now.attended);
        multiply(shared, square, place, next);
        found = rounded(as_half(result_of(shared, square) + bias) + before);
        if (row.real) exchange(now.middle + row.row, last.middle + row.row, found);

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
        asm volatile("fence.acq_rel.gpu;" ::: "memory");  // what has been taken back is gone before the next block begins
#pragma unroll 1
        for (int pass = 0; pass < PASSES; pass++) {
            pack_awaited(shared, now.inner + pass * HIDDEN);
            multiply(shared, square, place, next, pass);
        }
        found = rounded(as_half(result_of(shared, square, PASSES) + bias) + before);
        if (row.real) {
            exchange(now.hidden + row.row, last.hidden + row.row, found);
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
