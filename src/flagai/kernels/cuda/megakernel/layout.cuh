// What there is, and where: sizes, parameters, notes, shared memory.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int WIDTH = HIDDEN / HEADS;       // features of a head
constexpr int GROUP = BITS == 16 ? 64 : 128; // numbers that share a scale, or that a lane's row has at once
constexpr int ROWS = 4;                     // of a tile
constexpr int ROW_BYTES = 2048;
constexpr int COLUMNS = ROW_BYTES * 8 / BITS;
constexpr int STEP_BYTES = BITS == 4 ? COLUMNS / GROUP * 4 : 0;
constexpr int TILE_BYTES = ROWS * (ROW_BYTES + STEP_BYTES);
constexpr int PARTS = 4;                    // of a tile, one for a warp
constexpr int TOGETHER = 4;                 // groups of a row that tensor cores take at once
constexpr int SETS = 4;                     // tiles that are computed at once
constexpr int WARPS = SETS * PARTS;
constexpr int THREADS = WARPS * 32;         // that compute
constexpr int FETCHERS = BITS == 4 ? 2 : 1;  // warps
constexpr int LENGTH = HIDDEN / COLUMNS;    // tiles that make up a row of HIDDEN numbers
constexpr int SQUARE = HIDDEN / ROWS;       // rows of tiles that make up HIDDEN rows
constexpr int PASSES = INNER / HIDDEN;      // parts of the wide products
constexpr u32 MISSING = 0xFFFF;             // not a number, and no conversion gives these bits
static_assert(HIDDEN % COLUMNS == 0 && (LENGTH & (LENGTH - 1)) == 0, "tiles make up rows");
static_assert(INNER % HIDDEN == 0, "parts of wide products are squares");
static_assert(HIDDEN % (8 * THREADS) == 0, "threads take eight numbers at a time");
static_assert(RING > SETS, "a set takes every SETS-th tile");
static_assert(WIDTH == 64 && HEADS * WIDTH == HIDDEN, "eight lanes scaled_dot_product_attention to a slot, eight features each");

// Where a block's parameters are: queries, keys, values, out, up, down; two norms; and its cache.
struct Block {
    const u8 *words[6];
    const u8 *steps[6];                     // of eight bits: a scale for each row, in float32
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
    uint4 digits[2][HIDDEN / 16];           // a token: high and low; of 16 bits: as it is
    float2 scales[HIDDEN / 128];            // what products of a group must be multiplied by; the sum of its numbers
    u16 numbers[WARPS][8 * 32];             // of the token, on their way
    float results[TILES][PARTS][ROWS][TOGETHER];
    float moments[2][WARPS];
    u64 full[RING];                         // barriers: for its bytes, which each fetching warp announces
    u64 empty[RING];                        // for the warps that read a part of it
    Block blocks[BLOCKS];
};
static_assert(sizeof(Block) == 192 && sizeof(Shared) <= SHARED, "as megakernel.py counts them");
