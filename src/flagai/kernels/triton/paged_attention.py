"""Triton kernels of attention to a paged cache; :mod:`flagai.kernels.paged.attention` calls them.

A step reads every key and value once, so everything is arranged for reading: threads read 16 bytes each of neighbouring
features, heads and keys, several keys are under way at once, and nothing passes between threads before the last key but
the sum of a score. Shares are powers of two, which is what the hardware has.
"""

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _level(highest):
    # What scores are relative to; without any, all shares are zero.
    return tl.where(highest == -float("inf"), 0.0, highest)


@triton.jit
def _leave(
    total, weight, highest, heads, split, inside, features, out, totals, stats, ROWS, D: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    # The result of a program, [heads, features]: final, or a part that the others of its token are added to.
    real = inside[:, None] & (features < D)[None, :]
    places = heads[:, None] * D + features[None, :]
    if SPLIT:
        tl.store(totals + split.to(tl.int64) * ROWS * D + places, total, mask=real)
        at = stats + split.to(tl.int64) * 2 * ROWS + heads
        tl.store(at, highest, mask=inside)
        tl.store(at + ROWS, weight, mask=inside)
    else:
        found = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
        tl.store(out + places, found.to(out.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["WIDTH", "DISTANCES", "ROWS"])
def paged_attention_kernel(
    query, keys, values, slots, lengths, bias, out, totals, stats, scale,
    QUERY_STRIDE, WIDTH, DISTANCES, ROWS,
    BIAS: tl.constexpr, SPLIT: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    HEADS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """HEADS heads of a token attend to some of its keys; [T, H, D] and pools [slots, H, D].

    Each of LANES lanes of threads has DEPTH keys under way and sums of its own, which are joined in the end.
    """
    STEP: tl.constexpr = DEPTH * LANES
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    group, token, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + token)
    stride = STEP * tl.num_programs(2)
    pairs = tl.arange(0, LANES * HEADS)
    lane, head = pairs // HEADS, group * HEADS + pairs % HEADS
    features = tl.arange(0, BD)
    real_head, real_feature = head < H, features < D
    row = token.to(tl.int64)
    columns = head[:, None] * D + features[None, :]
    asked = tl.load(query + row * QUERY_STRIDE + columns, mask=real_head[:, None] & real_feature[None, :], other=0.0)
    asked = asked.to(tl.float32) * (scale * _LOG2_E)
    highest = tl.full([LANES * HEADS], -float("inf"), tl.float32)
    weight = tl.zeros([LANES * HEADS], dtype=tl.float32)
    total = tl.zeros([LANES * HEADS, BD], dtype=tl.float32)
    ahead = tl.arange(0, DEPTH)[:, None] * LANES + lane[None, :]
    table = slots + row * WIDTH + ahead
    # Before the length is there; what lies behind the last key is masked out below.
    slot = tl.load(table + split * STEP, mask=split * STEP + ahead < WIDTH, other=0)
    for start in tl.range(split * STEP, length, stride, num_stages=STAGES):
        index = start + ahead
        real = (index < length) & real_head[None, :]
        inside = real[:, :, None] & real_feature[None, None, :]
        places = slot.to(tl.int64)[:, :, None] * (H * D) + columns[None, :, :]
        key = tl.load(keys + places, mask=inside, other=0.0)
        value = tl.load(values + places, mask=inside, other=0.0)
        # The slots of the next keys come while these are computed.
        slot = tl.load(table + start + stride, mask=index + stride < length, other=0)
        scores = tl.sum(key.to(tl.float32) * asked[None, :, :], axis=2)
        if BIAS:
            distance = tl.minimum(length - 1 - index, DISTANCES - 1)
            scores += (
                tl.load(bias + head[None, :] * DISTANCES + distance, mask=real, other=0.0).to(tl.float32) * _LOG2_E
            )
        scores = tl.where(real, scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=0))
        level = _level(higher)
        shares, shrink = tl.exp2(scores - level[None, :]), tl.exp2(highest - level)
        weight = weight * shrink + tl.sum(shares, axis=0)
        total = total * shrink[:, None] + tl.sum(shares[:, :, None] * value.to(tl.float32), axis=0)
        highest = higher
    of_lanes = tl.reshape(highest, [LANES, HEADS])
    highest = tl.max(of_lanes, axis=0)
    shrink = tl.exp2(of_lanes - _level(highest)[None, :])
    weight = tl.sum(tl.reshape(weight, [LANES, HEADS]) * shrink, axis=0)
    total = tl.sum(tl.reshape(total, [LANES, HEADS, BD]) * shrink[:, :, None], axis=0)
    mine = group * HEADS + tl.arange(0, HEADS)
    _leave(total, weight, highest, row * H + mine, split, mine < H, features, out, totals, stats, ROWS, D, SPLIT)


@triton.jit
def _common(table, length, lanes, real, WIDTH, STEP: tl.constexpr):
    # How many keys all lanes have in the same slots. ``table`` points to the row of each, and to the first one's.
    ahead = tl.arange(0, STEP)
    same = tl.min(tl.where(real, length, 0x7FFFFFFF), axis=0)
    first = tl.full([STEP], 0x7FFFFFFF, tl.int32)
    for start in range(0, same, STEP):
        index = start + ahead
        inside = index < same
        theirs = tl.load(table + lanes[:, None] * WIDTH + index[None, :], mask=real[:, None] & inside[None, :], other=0)
        ours = tl.load(table + index, mask=inside, other=0)
        differ = real[:, None] & inside[None, :] & (theirs != ours[None, :])
        first = tl.where(tl.max(differ.to(tl.int32), axis=0) > 0, tl.minimum(first, index), first)
    return tl.minimum(same, tl.min(first, axis=0))


@triton.jit
def _attend_tile(
    asked, keys, values, slot, there, distance, bias, head, shared, highest, weight, total, scale, DISTANCES,
    BIAS: tl.constexpr, SHARED_WIDTH: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    # Some keys more of the softmax of all rows; ``there``: which keys count for which rows.
    features = tl.arange(0, BD)
    inside = (slot >= 0)[:, None] & (features < D)[None, :]
    places = slot.to(tl.int64)[:, None] * SHARED_WIDTH + shared * D + features[None, :]
    key = tl.load(keys + places, mask=inside, other=0.0)
    value = tl.load(values + places, mask=inside, other=0.0)
    scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * (scale * _LOG2_E)
    if BIAS:
        at = bias + head[:, None] * DISTANCES + tl.minimum(distance, DISTANCES - 1)
        scores += tl.load(at, mask=there, other=0.0).to(tl.float32) * _LOG2_E
    scores = tl.where(there, scores, -float("inf"))
    higher = tl.maximum(highest, tl.max(scores, axis=1))
    level = _level(higher)
    shares, shrink = tl.exp2(scores - level[:, None]), tl.exp2(highest - level)
    weight = weight * shrink + tl.sum(shares, axis=1)
    total = tl.dot(shares.to(value.dtype), value, total * shrink[:, None], input_precision="ieee")
    return higher, weight, total


@triton.jit(do_not_specialize=["WIDTH", "DISTANCES", "ROWS", "TEXT"])
def shared_attention_kernel(
    query, keys, values, slots, lengths, bias, out, totals, stats, scale,
    QUERY_STRIDE, WIDTH, DISTANCES, ROWS, TEXT,
    BIAS: tl.constexpr, SPLIT: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    GROUP: tl.constexpr, LANES: tl.constexpr, BG: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Heads of LANES tokens of a text attend to some of their keys, on tensor cores.

    The GROUP heads of each token share a head of the keys; TEXT tokens in a row are of one text, and have the same
    first slots: the keys there are read once for all, those behind for each token. Queries are [T, H, D], pools
    [slots, H / GROUP, D].
    """
    SHARED_WIDTH: tl.constexpr = H // GROUP * D
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    shared, split, splits = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    parts = tl.cdiv(TEXT, LANES)
    before = tl.program_id(1) % parts * LANES
    origin = tl.program_id(1) // parts * TEXT + before
    each, features, ahead = tl.arange(0, BG), tl.arange(0, BD), tl.arange(0, STEP)
    lane, head = each // GROUP, shared * GROUP + each % GROUP
    real = (lane < LANES) & (before + lane < TEXT)
    token = (origin + lane).to(tl.int64)
    length = tl.load(lengths + token, mask=real, other=0)
    asked = tl.load(
        query + token[:, None] * QUERY_STRIDE + head[:, None] * D + features[None, :],
        mask=real[:, None] & (features < D)[None, :],
        other=0.0,
    )
    highest = tl.full([BG], -float("inf"), tl.float32)
    weight = tl.zeros([BG], dtype=tl.float32)
    total = tl.zeros([BG, BD], dtype=tl.float32)
    table = slots + origin.to(tl.int64) * WIDTH
    longest = tl.max(length, axis=0)
    common = longest
    if LANES > 1:
        common = _common(table, length, lane, real, WIDTH, 2 * STEP)
    for start in tl.range(split * STEP, common, STEP * splits, num_stages=STAGES):
        index = start + ahead
        slot = tl.load(table + index, mask=index < common, other=-1)
        there = (index < common)[None, :] & real[:, None]
        highest, weight, total = _attend_tile(
            asked, keys, values, slot, there, length[:, None] - 1 - index[None, :], bias, head, shared, highest, weight,
            total, scale, DISTANCES, BIAS, SHARED_WIDTH, D, BD,
        )  # fmt: skip
    if LANES > 1:
        tiles = tl.cdiv(longest - common, STEP)
        for number in tl.range(split, tiles * LANES, splits, num_stages=STAGES):
            one = number % LANES
            index = common + number // LANES * STEP + ahead
            mine = real & (lane == one)
            there = mine[:, None] & (index[None, :] < length[:, None])
            end = tl.max(tl.where(mine, length, 0), axis=0)
            slot = tl.load(table + one * WIDTH + index, mask=index < end, other=-1)
            highest, weight, total = _attend_tile(
                asked, keys, values, slot, there, length[:, None] - 1 - index[None, :], bias, head, shared, highest,
                weight, total, scale, DISTANCES, BIAS, SHARED_WIDTH, D, BD,
            )  # fmt: skip
    _leave(total, weight, highest, token * H + head, split, real, features, out, totals, stats, ROWS, D, SPLIT)


@triton.jit(do_not_specialize=["SPLITS", "ROWS"])
def join_splits_kernel(
    totals, stats, out, SPLITS, ROWS, D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, PDL: tl.constexpr
):
    """The parts of one head of a token, joined: [SPLITS, ROWS, D] and [SPLITS, 2, ROWS] to [ROWS, D]."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    split, features = tl.arange(0, BS), tl.arange(0, BD)
    real = split < SPLITS
    at = stats + split.to(tl.int64) * 2 * ROWS + row
    highest = tl.load(at, mask=real, other=-float("inf"))
    shrink = tl.exp2(highest - _level(tl.max(highest, axis=0)))
    weight = tl.sum(tl.load(at + ROWS, mask=real, other=0.0) * shrink, axis=0)
    places = (split.to(tl.int64) * ROWS + row)[:, None] * D + features[None, :]
    inside = real[:, None] & (features < D)[None, :]
    total = tl.sum(tl.load(totals + places, mask=inside, other=0.0) * shrink[:, None], axis=0)
    found = total / tl.where(weight == 0.0, 1.0, weight)
    tl.store(out + row * D + features, found.to(out.dtype.element_ty), mask=features < D)
