"""Triton kernel of a beam search's step; :mod:`flagai.kernels.decode.search_steps` calls it.

A program has a text, whose few beams and candidates it compares pair by pair: the place of each in the order is how
many are better.
"""

import triton
import triton.language as tl

from flagai.kernels.triton.greedy import feed
from flagai.kernels.triton.scores import best_keys, index_of, key_of, score_of

_NOTHING = tl.constexpr(-(2**63))


@triton.jit
def _at(values, places, wanted):
    # The value whose place is the wanted one, for each of these; there is one or none.
    return tl.sum(tl.where(places[None, :] == wanted[:, None], values[None, :], tl.zeros_like(values)[None, :]), axis=1)


@triton.jit
def _candidates(values, found, running, row, W, COUNT, WP: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr):
    # The best continuations of a text's beams: scores, beams, tokens, the best first, [CP].
    flat = tl.arange(0, WP * KP)
    inside = flat < W * KP
    totals = tl.load(values + row * W * KP + flat, mask=inside, other=0.0)
    totals += tl.load(running + row * W + flat // KP, mask=inside, other=0.0)
    keys = best_keys(tl.where(inside, key_of(totals, flat), _NOTHING), COUNT, CP)
    there = keys != _NOTHING
    index = tl.where(there, index_of(keys), 0)
    token = tl.load(found + row * W * KP + index, mask=there, other=0).to(tl.int64)
    return tl.where(there, score_of(keys), -float("inf")), index // KP, token


@triton.jit
def _norm(length, PENALTY):
    return tl.exp(PENALTY.to(tl.int64).to(tl.float64, bitcast=True) * tl.log(tl.maximum(length, 1.0))).to(tl.float32)


@triton.jit
def _places(scores, there, rank, NONE):
    # The place of each candidate among all by its score; of equals, the first comes first.
    better = (scores[None, :] > scores[:, None]) | (
        (scores[None, :] == scores[:, None]) & (rank[None, :] < rank[:, None])
    )
    return tl.where(there, tl.sum((better & there[None, :]).to(tl.int32), axis=1), NONE)


@triton.jit
def _write_ids(ids, tokens, old, new, is_old, final, last, at, real, STEPS, BLOCK: tl.constexpr):
    # The ids of finished answers: those of another one of before, or of a beam with its final token.
    for start in range(0, last + 1, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = real[:, None] & (columns <= last)[None, :]
        of_old, of_new = inside & is_old[:, None], inside & ~is_old[:, None]
        kept_ids = tl.load(ids + old[:, None] * STEPS + columns[None, :], mask=of_old, other=0)
        new_ids = tl.load(tokens + new[:, None] * STEPS + columns[None, :], mask=of_new, other=0)
        new_ids = tl.where(columns[None, :] == last, final[:, None], new_ids)
        tl.debug_barrier()
        tl.store(ids + at[:, None] * STEPS + columns[None, :], tl.where(of_old, kept_ids, new_ids), mask=inside)


@triton.jit
def _move_rows(source, target, copied, rows, at, real, size, STRIDE, COPIED, BLOCK: tl.constexpr, COPY: tl.constexpr):
    # Let lane w have what row rows[w] has; all is read before anything is written.
    for start in range(0, size, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = real[:, None] & (columns < size)[None, :]
        tile = tl.load(source + rows[:, None] * STRIDE + columns[None, :], mask=inside, other=0)
        tl.debug_barrier()
        tl.store(target + at[:, None] * STRIDE + columns[None, :], tile, mask=inside)
        if COPY:
            tl.store(copied + at[:, None] * COPIED + columns[None, :], tile, mask=inside)


@triton.jit
def _reorder(tokens, slots, fed_slots, lengths, source, at, real, now, STEPS, TABLE, FED, BLOCK: tl.constexpr):
    # Beams take their pasts with them; how many keys each has.
    longest = tl.minimum(tl.max(tl.load(lengths + at, mask=real, other=0), axis=0) + 1, TABLE)
    keys = tl.load(lengths + source, mask=real, other=0)
    tl.debug_barrier()
    if tl.max((source != at).to(tl.int32), axis=0) > 0:
        size = tl.minimum(now, STEPS - 1) + 1
        _move_rows(tokens, tokens, tokens, source, at, real, size, STEPS, STEPS, BLOCK, False)
        _move_rows(slots, slots, fed_slots, source, at, real, longest, TABLE, FED, BLOCK, True)
    return keys


@triton.jit
def _finish(
    total, token, parent, stop, ends, there, over, size, now, score, ids, kept, stopped, tokens, row, lane, rank, at,
    real, W, NONE, NEEDED, PENALTY, STEPS, BLOCK: tl.constexpr,
):  # fmt: skip
    # Put candidates that end among the finished answers; the score of the last one that is needed. Those behind the
    # best W are there only to go on if all of the best end.
    counted = ends & (rank < W) & (over == 0)
    ended = tl.where(counted, total / _norm(size, PENALTY), -float("inf"))
    before = tl.load(score + at, mask=real, other=-float("inf"))
    keeps = tl.load(kept + at, mask=real, other=0)
    halted = tl.load(stopped + at, mask=real, other=0).to(tl.int32)
    new_place = _places(ended, there, rank, NONE)
    new_place += tl.sum((real[None, :] & (before[None, :] >= ended[:, None])).to(tl.int32), axis=1)
    old_place = lane + tl.sum((there[None, :] & (ended[None, :] > before[:, None])).to(tl.int32), axis=1)
    old_place = tl.where(real, old_place, NONE)
    best = _at(before, old_place, lane) + _at(ended, new_place, lane)
    tl.debug_barrier()
    tl.store(score + at, best, mask=real)
    tl.store(kept + at, _at(keeps, old_place, lane) + _at(now + (~stop).to(tl.int64), new_place, lane), mask=real)
    halted = _at(halted, old_place, lane) + _at(stop.to(tl.int32), new_place, lane)
    tl.store(stopped + at, (halted > 0).to(tl.uint8), mask=real)
    if tl.max(counted.to(tl.int32), axis=0) > 0:
        is_old = _at(lane * 0 + 1, old_place, lane) > 0
        old, new = row * W + _at(lane, old_place, lane), row * W + _at(parent, new_place, lane)
        final, last = _at(token, new_place, lane), tl.minimum(now, STEPS - 1)
        _write_ids(ids, tokens, old, new, is_old, final, last, at, real, STEPS, BLOCK)
    return tl.max(tl.where(lane == NEEDED - 1, best, -float("inf")), axis=0)


@triton.jit(
    do_not_specialize=[
        "W", "COUNT", "NEEDED", "PENALTY", "STOPS", "STEPS", "TABLE", "FED", "PAD", "HIGHEST",
    ]
)  # fmt: skip
def beams_kernel(
    values, found, stop_token_ids, running, score, ids, kept, stopped, group_done, done, length, limit,
    max_new_tokens, span_length, position, tokens, token_index, own_slots, slots, lengths, next_ids, slot_mapping,
    fed_ids, fed_positions, fed_generated, fed_slot_mapping, fed_slots, fed_lengths,
    W, COUNT, NEEDED, PENALTY, STOPS, STEPS, TABLE, FED, PAD, HIGHEST,
    WP: tl.constexpr, KP: tl.constexpr, CP: tl.constexpr, EARLY: tl.constexpr, GROWS: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Choose W beams of a text among values[W, KP] of tokens found[W, KP], and all that follows from them.

    What :class:`~flagai.generation.beam_group.BeamGroup` and
    :class:`~flagai.generation.decoding_state.DecodingState` do. PENALTY has the bits of a float64; EARLY: whether a
    text is done when it has W answers; GROWS: whether answers may reach the scores of the longest.
    """
    row = tl.program_id(0)
    lane, rank = tl.arange(0, WP), tl.arange(0, CP)
    real, at = lane < W, row * W + lane
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    total, parent, token = _candidates(values, found, running, row, W, COUNT, WP, KP, CP)
    now, most = tl.load(token_index + row), tl.load(max_new_tokens + row)
    over, size = tl.load(group_done + row) != 0, tl.load(length + row) + 1
    stop = token < 0
    for number in range(STOPS):
        stop = stop | (token == tl.load(stop_token_ids + number))
    written = tl.load(span_length + row * W + parent) + 1
    there = rank < COUNT
    ends = there & (stop | (written >= most))
    worst = _finish(
        total, token, parent, stop, ends, there, over, size, now, score, ids, kept, stopped, tokens, row, lane, rank,
        at, real, W, WP + CP, NEEDED, PENALTY, STEPS, BLOCK,
    )  # fmt: skip
    # Those that go on.
    alive = tl.where(there & ~ends, total, -float("inf"))
    place = _places(alive, there, rank, CP)
    goes = tl.where(real, _at(alive, place, lane), -float("inf"))
    longest = tl.load(limit + row) if GROWS else size
    enough = worst > -float("inf")
    if not EARLY:
        enough = enough & (tl.max(goes / _norm(longest, PENALTY), axis=0) <= worst)
    over = over | enough | (tl.max(goes, axis=0) == -float("inf"))
    tl.debug_barrier()
    tl.store(running + at, goes, mask=real)
    tl.store(length + row, size)
    tl.store(group_done + row, over.to(tl.uint8))
    tl.store(done + row, over.to(tl.uint8))
    source = tl.where(real, row * W + _at(parent, place, lane), at)
    keys = _reorder(tokens, slots, fed_slots, lengths, source, at, real, now, STEPS, TABLE, FED, BLOCK)
    stands = tl.minimum(tl.load(position + source, mask=real, other=0) + 1, HIGHEST)
    grown = tl.load(span_length + source, mask=real, other=0) + 1
    token = _at(token, place, lane)
    rows, zero = row + tl.zeros_like(lane), tl.zeros_like(lane)
    feed(
        token, now + zero, most + zero, keys, rows, lane, at, real, tokens, token_index, own_slots, slots, lengths,
        next_ids, slot_mapping, fed_ids, fed_generated, fed_slot_mapping, fed_slots, fed_lengths, STEPS, TABLE, FED,
        PAD,
    )  # fmt: skip
    tl.store(span_length + at, grown, mask=real)
    tl.store(position + at, stands, mask=real)
    tl.store(fed_positions + at, stands, mask=real)
