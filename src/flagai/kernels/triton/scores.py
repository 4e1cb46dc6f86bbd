"""Triton kernels that find the best of the tokens that may follow, or draw one.

:mod:`flagai.kernels.decode.search_steps` calls them. A vocabulary is read once, by many programs, which leave a few
numbers of each part of it. The next kernel needs no more than the parts that those numbers name. A score and its index
are one integer, so that all are different and the best has the first index.
"""

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-(2**63))
# Above every index.
_NONE = tl.constexpr(0x7FFFFFFF)
# Below, a text's temperature counts as this; see flagai.generation.processors.
_COLDEST = tl.constexpr(1e-30)


@triton.jit
def _level(highest):
    return tl.where(highest == -float("inf"), 0.0, highest)


@triton.jit
def key_of(score, index):
    """Integers in the order of scores; of equal ones, the first index is the highest."""
    bits = score.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit
def score_of(key):
    """The score of a key."""
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def index_of(key):
    """The index of a key."""
    return 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def best_keys(keys, COUNT, KP: tl.constexpr):
    """The COUNT highest of different keys, the highest first, [KP]; the lowest integer behind them."""
    places = tl.arange(0, KP)
    found = tl.full([KP], _LOWEST, tl.int64)
    for place in range(COUNT):
        best = tl.max(keys, axis=0)
        found = tl.where(places == place, best, found)
        keys = tl.where(keys == best, _LOWEST, keys)
    return found


@triton.jit
def _allowed(scores, columns, banned, BANNED):
    for index in range(BANNED):
        scores = tl.where(columns == tl.load(banned + index), -float("inf"), scores)
    return scores


@triton.jit
def _heat(temperature, row, HOT: tl.constexpr):
    return tl.maximum(tl.load(temperature + row), _COLDEST) if HOT else 1.0


@triton.jit(do_not_specialize=["V", "BANNED", "W", "PIECES", "CHUNKS", "LANES"])
def parts_kernel(
    logits, banned, temperature, parts, masses, bests, V, BANNED, W, PIECES, CHUNKS, LANES,
    CHUNK: tl.constexpr, PIECE: tl.constexpr, DRAW: tl.constexpr, HOT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A chunk of a lane of logits[LANES, V].

    parts[3, LANES, CHUNKS]: its highest, the sum of exp(logit - highest), its best that is not banned. With DRAW, the
    weights of what is not banned, relative to the best, masses[LANES, CHUNKS]; else the best that is not banned of each
    piece of the chunk, bests[LANES, PIECES].
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    chunk, lane = tl.program_id(0), tl.program_id(1)
    pieces = chunk * (CHUNK // PIECE) + tl.arange(0, CHUNK // PIECE)
    columns = pieces[:, None] * PIECE + tl.arange(0, PIECE)[None, :]
    inside = columns < V
    scores = tl.load(logits + lane.to(tl.int64) * V + columns, mask=inside, other=-float("inf")).to(tl.float32)
    highest = tl.max(tl.max(scores, axis=1), axis=0)
    total = tl.sum(tl.sum(tl.exp(scores - _level(highest)), axis=1), axis=0)
    scores = _allowed(scores, columns, banned, BANNED)
    best = tl.max(scores, axis=1)
    top = tl.max(best, axis=0)
    place = lane * CHUNKS + chunk
    tl.store(parts + place, highest)
    tl.store(parts + LANES * CHUNKS + place, total)
    tl.store(parts + 2 * LANES * CHUNKS + place, top)
    if DRAW:
        heat = _heat(temperature, lane // W, HOT)
        weights = tl.exp((scores - _level(top)).to(tl.float64) / heat)
        tl.store(masses + place, tl.sum(tl.sum(weights, axis=1), axis=0))
    else:
        tl.store(bests + lane * PIECES + pieces, best, mask=pieces < PIECES)


@triton.jit
def _log_total(parts, lane, CHUNKS, LANES, CP: tl.constexpr):
    # What is subtracted from a lane's logits: the highest, and the logarithm of the sum.
    chunks = tl.arange(0, CP)
    places = lane * CHUNKS + chunks
    highs = tl.load(parts + places, mask=chunks < CHUNKS, other=-float("inf"))
    totals = tl.load(parts + LANES * CHUNKS + places, mask=chunks < CHUNKS, other=0.0)
    high = tl.max(highs, axis=0)
    return high, tl.log(tl.sum(totals * tl.exp(highs - _level(high)), axis=0))


@triton.jit
def _best_of_lane(
    logits, banned, bests, lane, V, BANNED, PIECES, PIECE: tl.constexpr, NP: tl.constexpr, KP: tl.constexpr
):  # fmt: skip
    # A lane's KP best logits that are not banned and their tokens. They are in the pieces with the best best ones.
    pieces = tl.arange(0, NP)
    firsts = tl.load(bests + lane * PIECES + pieces, mask=pieces < PIECES, other=-float("inf"))
    chosen = best_keys(tl.where(pieces < PIECES, key_of(firsts, pieces), _LOWEST), KP, KP)
    there = chosen != _LOWEST
    columns = tl.where(there, index_of(chosen), 0)[:, None] * PIECE + tl.arange(0, PIECE)[None, :]
    inside = there[:, None] & (columns < V)
    scores = tl.load(logits + lane.to(tl.int64) * V + columns, mask=inside, other=-float("inf")).to(tl.float32)
    scores = _allowed(scores, columns, banned, BANNED)
    keys = tl.where(inside, key_of(scores, columns), _LOWEST)
    found = best_keys(tl.reshape(keys, [KP * PIECE]), KP, KP)
    there = found != _LOWEST
    return tl.where(there, score_of(found), -float("inf")), tl.where(there, index_of(found), 0)


@triton.jit(do_not_specialize=["V", "BANNED", "PIECES", "CHUNKS", "LANES"])
def best_kernel(
    logits, banned, parts, bests, values, tokens, V, BANNED, PIECES, CHUNKS, LANES,
    PIECE: tl.constexpr, NP: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The log-probabilities values[LANES, KP] of the best tokens[LANES, KP] of each lane, the best first."""
    lane = tl.program_id(0)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    high, size = _log_total(parts, lane, CHUNKS, LANES, CP)
    found, best = _best_of_lane(logits, banned, bests, lane, V, BANNED, PIECES, PIECE, NP, KP)
    places = lane * KP + tl.arange(0, KP)
    tl.store(values + places, found - high - size)
    tl.store(tokens + places, best)


@triton.jit
def _uniform(uniforms, token_index, lane, row, STEPS, STARTS):
    step = tl.load(token_index + row) - STARTS
    return tl.load(uniforms + lane * STEPS + tl.minimum(tl.maximum(step, 0), STEPS - 1))


@triton.jit(do_not_specialize=["V", "BANNED", "W", "CHUNKS", "LANES", "STEPS", "STARTS"])
def draw_kernel(
    logits, banned, temperature, uniforms, token_index, parts, masses, values, tokens,
    V, BANNED, W, CHUNKS, LANES, STEPS, STARTS,
    CHUNK: tl.constexpr, CP: tl.constexpr, HOT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Draw a token for each lane: first its chunk, then the token in it. ``values`` are their log-probabilities."""
    lane = tl.program_id(0)
    row = lane // W
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    high, size = _log_total(parts, lane, CHUNKS, LANES, CP)
    heat = _heat(temperature, row, HOT)
    chunks = tl.arange(0, CP)
    inside = chunks < CHUNKS
    tops = tl.load(parts + 2 * LANES * CHUNKS + lane * CHUNKS + chunks, mask=inside, other=-float("inf"))
    mass = tl.load(masses + lane * CHUNKS + chunks, mask=inside, other=0.0)
    top = tl.max(tops, axis=0)
    mass *= tl.exp((tops - _level(top)).to(tl.float64) / heat)
    reached = tl.cumsum(mass, axis=0)
    wanted = _uniform(uniforms, token_index, lane, row, STEPS, STARTS) * tl.max(reached, axis=0)
    chunk = tl.minimum(tl.sum((reached <= wanted).to(tl.int32), axis=0), CHUNKS - 1)
    before = tl.max(tl.where(chunks < chunk, reached, 0.0), axis=0)
    columns = chunk * CHUNK + tl.arange(0, CHUNK)
    scores = tl.load(logits + lane.to(tl.int64) * V + columns, mask=columns < V, other=-float("inf")).to(tl.float32)
    scores = _allowed(scores, columns, banned, BANNED)
    weights = tl.exp((scores - _level(top)).to(tl.float64) / heat)
    beyond = (before + tl.cumsum(weights, axis=0) > wanted) & (weights > 0)
    # The sums of a chunk are rounded in two ways: its last token stands in for one that lies just behind it.
    last = tl.max(tl.where(weights > 0, columns, 0), axis=0)
    token = tl.minimum(tl.min(tl.where(beyond, columns, _NONE), axis=0), last)
    value = tl.sum(tl.where(columns == token, scores, 0.0), axis=0)
    tl.store(values + lane, value - high - size)
    tl.store(tokens + lane, token)


@triton.jit(do_not_specialize=["V", "BANNED", "W", "PIECES", "CHUNKS", "LANES", "STEPS", "STARTS", "COUNT"])
def draw_best_kernel(
    logits, banned, temperature, share, uniforms, token_index, parts, bests, values, tokens,
    V, BANNED, W, PIECES, CHUNKS, LANES, STEPS, STARTS, COUNT,
    PIECE: tl.constexpr, NP: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr, HOT: tl.constexpr,
    SHARE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The same among each lane's COUNT best tokens, those as good as the last included if they are among the KP best.

    With SHARE, only among the best of these whose probabilities exceed share[rows].
    """
    lane = tl.program_id(0)
    row = lane // W
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    high, size = _log_total(parts, lane, CHUNKS, LANES, CP)
    found, token = _best_of_lane(logits, banned, bests, lane, V, BANNED, PIECES, PIECE, NP, KP)
    scores = (found - high - size) / _heat(temperature, row, HOT)
    places = tl.arange(0, KP)
    lowest = tl.max(tl.where(places == COUNT - 1, scores, -float("inf")), axis=0)
    kept = (scores >= lowest) & (found > -float("inf"))
    weights = tl.where(kept, tl.exp((scores - _level(tl.max(scores, axis=0))).to(tl.float64)), 0.0)
    if SHARE:
        reached = tl.cumsum(weights, axis=0)
        most = tl.max(reached, axis=0) * tl.load(share + row)
        weights = tl.where(reached - weights > most, 0.0, weights)
    # In the order of the vocabulary.
    upto = tl.where(token[None, :] <= token[:, None], weights[None, :], 0.0)
    reached = tl.sum(upto, axis=1)
    wanted = _uniform(uniforms, token_index, lane, row, STEPS, STARTS) * tl.max(reached, axis=0)
    chosen = tl.min(tl.where((reached > wanted) & (weights > 0), token, _NONE), axis=0)
    chosen = tl.minimum(chosen, tl.max(tl.where(weights > 0, token, 0), axis=0))
    value = tl.max(tl.where((token == chosen) & kept, found, -float("inf")), axis=0)
    tl.store(values + lane, value - high - size)
    tl.store(tokens + lane, chosen)
