// Sizes, and the layout of parameters, mailboxes and shared memory.

typedef unsigned char u8;

constexpr int HEAD_DIM = HIDDEN / HEADS;       // features of a head
constexpr int GROUP = 128;                   // weights that share a scale
constexpr int ROWS = 4;                     // of a tile
constexpr int ROW_BYTES = 2048;
constexpr int COLUMNS = ROW_BYTES * 8 / BITS;
constexpr int STEP_BYTES = BITS == 4 ? COLUMNS / GROUP * 4 : 0;
constexpr int TILE_BYTES = ROWS * (ROW_BYTES + STEP_BYTES);
constexpr int PARTS = 4;                    // of a tile, one for a warp
constexpr int MMA_GROUPS = 4;                 // groups of a row in one mma
constexpr int SETS = 4;                     // tiles computed at once
constexpr int WARPS = SETS * PARTS;
constexpr int THREADS = WARPS * 32;         // that compute
constexpr int PRODUCER_WARPS = BITS == 4 ? 2 : 1;  // warps
constexpr int TILES_PER_ROW = HIDDEN / COLUMNS;    // tiles in a row of HIDDEN weights
constexpr int TILE_ROWS = HIDDEN / ROWS;       // rows of tiles in HIDDEN rows
constexpr int PASSES = INNER / HIDDEN;      // squares of the wide matmuls
constexpr int STAGES = INNER <= 8 * THREADS ? 1 : PASSES;  // parts in which the wide matmuls are computed
constexpr int SPAN = INNER / STAGES;        // rows of such a part of the first, columns of the second
constexpr u32 SENTINEL = 0xFFFF;             // not a number, and no conversion gives these bits
static_assert(HIDDEN % COLUMNS == 0 && (TILES_PER_ROW & (TILES_PER_ROW - 1)) == 0, "tiles make up rows");
static_assert(INNER % HIDDEN == 0, "wide matmuls are made of squares");
static_assert(HIDDEN % (8 * THREADS) == 0 || 8 * THREADS % HIDDEN == 0, "threads take eight values at a time");
static_assert(RING > SETS, "a set takes every SETS-th tile");
static_assert(HEAD_DIM == 64 && HEADS * HEAD_DIM == HIDDEN, "eight lanes attend to a slot, eight features each");

// Addresses of a block's parameters: q, k, v, out, up, down; two norms; and its cache.
struct Block {
    const u8 *words[6];
    const u8 *steps[6];                     // of int8: a scale for each row, in float32
    const u16 *bias[6];
    const u16 *norm_weight[2];
    const u16 *norm_bias[2];
    u16 *keys;
    u16 *values;
};

// Values that CTAs exchange; SENTINEL where none is stored.
struct Mailbox {
    u16 qkv[3][HIDDEN];                   // query, key and value
    u16 attention_out[SPLITS][HIDDEN];
    u16 after_attention[HIDDEN];
    u16 inner[INNER];
    u16 hidden[HIDDEN];
    u32 levels[SPLITS][HEADS];            // of the splits of a head, if it has several: log of the sum of exp(scores)
};
static_assert(sizeof(Mailbox) % 16 == 0, "mailboxes begin where values are loaded by eight");

struct Shared {
    u8 ring[RING][TILE_BYTES];              // ROWS rows, and their scales
    uint4 split[2][SPAN / 16];             // a token: high and low bytes
    float2 scales[SPAN / 128];              // the scale of a group of the token, and the sum of its values
    u16 numbers[WARPS][8 * 32];             // of the token, while lanes exchange them
    float results[TILES][PARTS][ROWS][MMA_GROUPS];
    float mean_and_m2[2][WARPS];
    u64 full[RING];                         // mbarriers: expect the bytes of each producer warp
    u64 empty[RING];                        // mbarriers: of the warps that read a part of it
    Block blocks[BLOCKS];
};
static_assert(sizeof(Block) == 192 && sizeof(Shared) <= SHARED, "as launch_plan.py counts them");
