"""Triton kernels of a greedy choice; :mod:`flagai.kernels.decode.greedy` calls them.

The first finds what is best in each chunk of the vocabulary, for which a GPU needs many programs. The second
compares the chunks, and does all that follows from the tokens, in place.
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
def _note(score, kept, length, ended, stopped, done, rows, real, value, stops, full):
    # What each answer gains, and whether it ends. All threads have read, here and before, when one of them writes.
    scored = tl.load(score + rows, mask=real, other=0.0)
    keeps = tl.load(kept + rows, mask=real, other=0)
    counts = tl.load(length + rows, mask=real, other=0)
    over = tl.load(ended + rows, mask=real, other=0) != 0
    halted = tl.load(stopped + rows, mask=real, other=0) != 0
    tl.debug_barrier()
    dead = value == -float("inf")
    counted = ~over & ~dead
    over = over | stops | dead | full
    tl.store(score + rows, tl.where(counted, scored + value, scored), mask=real)
    tl.store(kept + rows, keeps + (counted & ~stops).to(tl.int64), mask=real)
    tl.store(length + rows, counts + counted.to(tl.int64), mask=real)
    tl.store(stopped + rows, (halted | (counted & stops)).to(tl.uint8), mask=real)
    tl.store(ended + rows, over.to(tl.uint8), mask=real)
    tl.store(done + rows, over.to(tl.uint8), mask=real)


@triton.jit
def _feed(
    token, now, most, rows, real, tokens, token_index, own_slots, slots, lengths, next_ids, slot_mapping,
    fed_ids, fed_generated, fed_slot_mapping, fed_slots, fed_lengths, STEPS, TABLE, FED, PAD,
):  # fmt: skip
    # Append a token, and give it its slot. Finished rows are fed on: they must not leave their slots.
    keys = tl.load(lengths + rows, mask=real, other=0)
    slot = tl.load(own_slots + rows * STEPS + tl.minimum(now, STEPS - 1), mask=real, other=0)
    place = tl.minimum(keys, TABLE - 1)
    padding = token == PAD
    mapped = tl.where(padding, 0, slot).to(tl.int64)
    grown = tl.where(padding, keys, tl.minimum(keys + 1, TABLE))
    grown = tl.where(most > 0, grown, 0)  # empty rows have no keys
    tl.debug_barrier()
    tl.store(tokens + rows * STEPS + tl.minimum(now, STEPS - 1), token, mask=real)
    tl.store(token_index + rows, now + 1, mask=real)
    tl.store(slots + rows * TABLE + place, slot, mask=real)
    tl.store(lengths + rows, grown, mask=real)
    tl.store(next_ids + rows, token, mask=real)
    tl.store(slot_mapping + rows, mapped, mask=real)
    tl.store(fed_ids + rows, token, mask=real)
    tl.store(fed_generated + rows, (now >= 0).to(tl.uint8), mask=real)
    tl.store(fed_slot_mapping + rows, mapped, mask=real)
    tl.store(fed_slots + rows * FED + place, slot, mask=real)
    tl.store(fed_lengths + rows, grown, mask=real)


@triton.jit(
    do_not_specialize=["B", "CHUNKS", "STOPS", "STEPS", "TABLE", "FED", "BLANKS", "START", "CLOSING", "PAD", "HIGHEST"]
)
def append_kernel(
    parts, firsts, stop_token_ids,
    score, kept, length, ended, stopped, done,
    max_new_tokens, span_length, position, block_position, blank_index, last_blank, blanks, tokens, token_index,
    own_slots, slots, lengths, next_ids, slot_mapping,
    fed_ids, fed_positions, fed_generated, fed_slot_mapping, fed_slots, fed_lengths,
    B, CHUNKS, STOPS, STEPS, TABLE, FED, BLANKS, START, CLOSING, PAD, HIGHEST,
    BP: tl.constexpr, CP: tl.constexpr, SPANS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Choose a token for each of B rows, record it, append it, and set what the next forward pass reads.

    What :class:`~flagai.generation.sampling.SamplingSearch` and
    :class:`~flagai.generation.decoding_state.DecodingState` do, for one lane; BP rows a program.
    """
    rows = tl.program_id(0) * BP + tl.arange(0, BP)
    real = rows < B
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    token, value = _best(parts, firsts, rows, real, B, CHUNKS, CP)
    written = tl.load(span_length + rows, mask=real, other=0)
    stands = tl.load(position + rows, mask=real, other=0)
    now = tl.load(token_index + rows, mask=real, other=0)
    most = tl.load(max_new_tokens + rows, mask=real, other=0)
    last = real
    if SPANS:
        inner = tl.load(block_position + rows, mask=real, other=0)
        which = tl.load(blank_index + rows, mask=real, other=0)
        last = which >= tl.load(last_blank + rows, mask=real, other=0)
        # A full blank must be closed, which costs nothing.
        closing = (written >= most) & ~last
        token = tl.where(closing, CLOSING, token)
        value = tl.where(closing, 0.0, value)
    stop = token < 0
    for index in range(STOPS):
        stop = stop | (token == tl.load(stop_token_ids + index))
    written += 1
    _note(score, kept, length, ended, stopped, done, rows, real, value, last & stop, last & (written >= most))
    if SPANS:
        turns = stop & ~last
        which += turns.to(tl.int64)
        stands = tl.where(turns, tl.load(blanks + rows * BLANKS + which, mask=real & turns, other=0), stands)
        # Finished rows are fed on; their positions must stay inside of the table.
        inner = tl.minimum(tl.where(turns, 1, inner + 1), HIGHEST)
        written = tl.where(turns, 0, written)
        token = tl.where(turns, START, token)
        tl.store(blank_index + rows, which, mask=real)
        tl.store(block_position + rows, inner, mask=real)
        tl.store(fed_positions + B + rows, inner, mask=real)
    else:
        stands = tl.minimum(stands + 1, HIGHEST)
    _feed(
        token, now, most, rows, real, tokens, token_index, own_slots, slots, lengths, next_ids, slot_mapping,
        fed_ids, fed_generated, fed_slot_mapping, fed_slots, fed_lengths, STEPS, TABLE, FED, PAD,
    )  # fmt: skip
    tl.store(span_length + rows, written, mask=real)
    tl.store(position + rows, stands, mask=real)
    tl.store(fed_positions + rows, stands, mask=real)
