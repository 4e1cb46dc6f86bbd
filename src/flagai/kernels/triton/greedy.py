"""Triton kernels of a greedy choice, and of all that follows from tokens.

:mod:`flagai.kernels.decode.search_steps` calls them. The first finds what is best in each chunk of the vocabulary, for
which a GPU needs many programs. The second compares the chunks, or takes tokens that have been drawn, and does all that
follows from them, in place.
"""

import triton
import triton.language as tl

# Above every token.
_NONE = tl.constexpr(0x7FFFFFFF)


@triton.jit(do_not_specialize=["BANNED"])
def argmax_kernel(logits, banned, parts, firsts, V, BANNED, CHUNK: tl.constexpr, PDL: tl.constexpr):
    """A chunk of a row of logits[B, V]: its highest, the sum of exp(logit - highest), its best that is not banned.

    These are parts[3, B, chunks]; firsts[B, chunks] are the first tokens that are as good as the best.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(1)
    columns = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    inside = columns < V
    scores = tl.load(logits + row.to(tl.int64) * V + columns, mask=inside, other=-float("inf")).to(tl.float32)
    highest = tl.max(scores, axis=0)
    level = tl.where(highest == -float("inf"), 0.0, highest)
    total = tl.sum(tl.exp(scores - level), axis=0)
    for index in range(BANNED):
        scores = tl.where(columns == tl.load(banned + index), -float("inf"), scores)
    best = tl.max(scores, axis=0)
    first = tl.min(tl.where((scores == best) & inside, columns, _NONE), axis=0)
    size = tl.num_programs(0) * tl.num_programs(1)
    place = row * tl.num_programs(0) + tl.program_id(0)
    tl.store(parts + place, highest)
    tl.store(parts + size + place, total)
    tl.store(parts + 2 * size + place, best)
    tl.store(firsts + place, first)


@triton.jit
def _best(parts, firsts, rows, real, B, CHUNKS, CP: tl.constexpr):
    # The best token of each row and its log-probability. Scores that are no numbers give token 0, as torch's argmax.
    chunks = tl.arange(0, CP)
    inside = real[:, None] & (chunks < CHUNKS)[None, :]
    places = rows[:, None] * CHUNKS + chunks[None, :]
    highs = tl.load(parts + places, mask=inside, other=-float("inf"))
    totals = tl.load(parts + B * CHUNKS + places, mask=inside, other=0.0)
    bests = tl.load(parts + 2 * B * CHUNKS + places, mask=inside, other=-float("inf"))
    tokens = tl.load(firsts + places, mask=inside, other=_NONE)
    top = tl.max(highs, axis=1)
    level = tl.where(top == -float("inf"), 0.0, top)
    total = tl.sum(totals * tl.exp(highs - level[:, None]), axis=1)
    best = tl.max(bests, axis=1)
    value = best - top - tl.log(total)
    token = tl.min(tl.where(bests == best[:, None], tokens, _NONE), axis=1)
    return tl.where((value == value) & (token < _NONE), token, 0).to(tl.int64), value


@triton.jit
def _note(score, kept, length, ended, stopped, lane, at, real, value, stops, full, W):
    # What each answer gains, and whether it has ended: those of no lane have. All threads have read, here and before,
    # when one of them writes.
    scored = tl.load(score + at, mask=real, other=0.0)
    keeps = tl.load(kept + at, mask=real, other=0)
    counts = tl.load(length + at, mask=real, other=0)
    over = tl.load(ended + at, mask=real, other=1) != 0
    halted = tl.load(stopped + at, mask=real, other=0) != 0
    tl.debug_barrier()
    dead = value == -float("inf")
    counted = ~over & ~dead
    over = over | stops | dead | full
    tl.store(score + at, tl.where(counted, scored + value, scored), mask=real)
    tl.store(kept + at, keeps + (counted & ~stops).to(tl.int64), mask=real)
    tl.store(length + at, counts + counted.to(tl.int64), mask=real)
    tl.store(stopped + at, (halted | (counted & stops)).to(tl.uint8), mask=real)
    tl.store(ended + at, over.to(tl.uint8), mask=real)
    return (over | (lane >= W)).to(tl.int32)


@triton.jit
def _turn(
    token, written, stands, inner, which, turns, blanks, blank_index, block_position, fed_positions, row, at, real,
    BLANKS, START, HIGHEST,
):  # fmt: skip
    # Open the next blank where the last one has been closed.
    which += turns.to(tl.int64)
    stands = tl.where(turns, tl.load(blanks + row * BLANKS + which, mask=real & turns, other=0), stands)
    # Finished rows are fed on; their positions must stay inside of the table.
    inner = tl.minimum(tl.where(turns, 1, inner + 1), HIGHEST)
    tl.store(blank_index + at, which, mask=real)
    tl.store(block_position + at, inner, mask=real)
    tl.store(fed_positions + at, inner, mask=real)
    return tl.where(turns, START, token), tl.where(turns, 0, written), stands


@triton.jit
def feed(
    token, now, most, keys, row, lane, at, real, tokens, token_index, own_slots, slots, lengths, next_ids, slot_mapping,
    fed_ids, fed_generated, fed_slot_mapping, fed_slots, fed_lengths, STEPS, TABLE, FED, PAD,
):  # fmt: skip
    """Append tokens to lanes that have so many keys, and give them their slots.

    Finished rows are fed on: they must not leave their slots.
    """
    slot = tl.load(own_slots + at * STEPS + tl.minimum(now, STEPS - 1), mask=real, other=0)
    place = tl.minimum(keys, TABLE - 1)
    padding = token == PAD
    mapped = tl.where(padding, 0, slot).to(tl.int64)
    grown = tl.where(padding, keys, tl.minimum(keys + 1, TABLE))
    grown = tl.where(most > 0, grown, 0)  # empty rows have no keys
    tl.debug_barrier()
    tl.store(tokens + at * STEPS + tl.minimum(now, STEPS - 1), token, mask=real)
    tl.store(token_index + row, now + 1, mask=real & (lane == 0))
    tl.store(slots + at * TABLE + place, slot, mask=real)
    tl.store(lengths + at, grown, mask=real)
    tl.store(next_ids + at, token, mask=real)
    tl.store(slot_mapping + at, mapped, mask=real)
    tl.store(fed_ids + at, token, mask=real)
    tl.store(fed_generated + at, (now >= 0).to(tl.uint8), mask=real)
    tl.store(fed_slot_mapping + at, mapped, mask=real)
    tl.store(fed_slots + at * FED + place, slot, mask=real)
    tl.store(fed_lengths + at, grown, mask=real)


@triton.jit(
    do_not_specialize=[
        "B", "W", "CHUNKS", "STOPS", "STEPS", "TABLE", "FED", "BLANKS", "START", "CLOSING", "PAD", "HIGHEST",
    ]
)  # fmt: skip
def append_kernel(
    parts, firsts, stop_token_ids,
    score, kept, length, ended, stopped, done,
    max_new_tokens, span_length, position, block_position, blank_index, last_blank, blanks, tokens, token_index,
    own_slots, slots, lengths, next_ids, slot_mapping,
    fed_ids, fed_positions, fed_generated, fed_slot_mapping, fed_slots, fed_lengths,
    B, W, CHUNKS, STOPS, STEPS, TABLE, FED, BLANKS, START, CLOSING, PAD, HIGHEST,
    BP: tl.constexpr, WP: tl.constexpr, CP: tl.constexpr, SPANS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Record a token for each of W lanes of B rows, append it, and set what the next forward pass reads.

    What :class:`~flagai.generation.sampling.SamplingSearch` and
    :class:`~flagai.generation.decoding_state.DecodingState` do; BP rows a program. With CP, one lane each and the best
    token of the chunks; else ``firsts`` are tokens, and ``parts`` their log-probabilities.
    """
    index = tl.arange(0, BP * WP)
    row, lane = tl.program_id(0) * BP + index // WP, index % WP
    real, at = (row < B) & (lane < W), row * W + lane
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    if CP > 0:
        token, value = _best(parts, firsts, row, real, B, CHUNKS, CP)
    else:
        token = tl.load(firsts + at, mask=real, other=0).to(tl.int64)
        value = tl.load(parts + at, mask=real, other=0.0)
    written = tl.load(span_length + at, mask=real, other=0)
    stands = tl.load(position + at, mask=real, other=0)
    keys = tl.load(lengths + at, mask=real, other=0)
    now = tl.load(token_index + row, mask=real, other=0)
    most = tl.load(max_new_tokens + row, mask=real, other=0)
    last = real
    if SPANS:
        inner = tl.load(block_position + at, mask=real, other=0)
        which = tl.load(blank_index + at, mask=real, other=0)
        last = which >= tl.load(last_blank + row, mask=real, other=0)
        # A full blank must be closed, which costs nothing.
        closing = (written >= most) & ~last
        token = tl.where(closing, CLOSING, token)
        value = tl.where(closing, 0.0, value)
    stop = token < 0
    for number in range(STOPS):
        stop = stop | (token == tl.load(stop_token_ids + number))
    written += 1
    full = last & (written >= most)
    over = _note(score, kept, length, ended, stopped, lane, at, real, value, last & stop, full, W)
    rows = tl.program_id(0) * BP + tl.arange(0, BP)
    tl.store(done + rows, tl.min(tl.reshape(over, [BP, WP]), axis=1).to(tl.uint8), mask=rows < B)
    if SPANS:
        turns = stop & ~last
        token, written, stands = _turn(
            token, written, stands, inner, which, turns, blanks, blank_index, block_position, fed_positions + B * W,
            row, at, real, BLANKS, START, HIGHEST,
        )  # fmt: skip
    else:
        stands = tl.minimum(stands + 1, HIGHEST)
    feed(
        token, now, most, keys, row, lane, at, real, tokens, token_index, own_slots, slots, lengths, next_ids,
        slot_mapping, fed_ids, fed_generated, fed_slot_mapping, fed_slots, fed_lengths, STEPS, TABLE, FED, PAD,
    )  # fmt: skip
    tl.store(span_length + at, written, mask=real)
    tl.store(position + at, stands, mask=real)
    tl.store(fed_positions + at, stands, mask=real)
