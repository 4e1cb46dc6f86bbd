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
    total, weight, highest, row, split, inside, heads, features, out, totals, stats, ROWS, D: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    # The result of a program, [heads, features]: final, or a part that the others of its token are added to.
    real = inside[:, None] & (features < D)[None, :]
    places = (row + heads)[:, None] * D + features[None, :]
    if SPLIT:
        tl.store(totals + split.to(tl.int64) * ROWS * D + places, total, mask=real)
        at = stats + split.to(tl.int64) * 2 * ROWS + row + heads
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
    _leave(total, weight, highest, row * H, split, mine < H, mine, features, out, totals, stats, ROWS, D, SPLIT)


@triton.jit(do_not_specialize=["WIDTH", "DISTANCES", "ROWS"])
def grouped_attention_kernel(
    query, keys, values, slots, lengths, bias, out, totals, stats, scale,
    QUERY_STRIDE, WIDTH, DISTANCES, ROWS,
    BIAS: tl.constexpr, SPLIT: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    GROUP: tl.constexpr, BG: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The GROUP heads of a token that share a head of the keys attend to some of them, on tensor cores.

    Queries are [T, H, D], pools [slots, H / GROUP, D].
    """
    TYPE: tl.constexpr = keys.dtype.element_ty
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    shared, token, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + token)
    group, features, ahead = tl.arange(0, BG), tl.arange(0, BD), tl.arange(0, STEP)
    head = shared * GROUP + group
    real_feature = (features < D)[None, :]
    row = token.to(tl.int64)
    asked = tl.load(
        query + row * QUERY_STRIDE + head[:, None] * D + features[None, :],
        mask=(group < GROUP)[:, None] & real_feature,
        other=0.0,
    )
    highest = tl.full([BG], -float("inf"), tl.float32)
    weight = tl.zeros([BG], dtype=tl.float32)
    total = tl.zeros([BG, BD], dtype=tl.float32)
    for start in tl.range(split * STEP, length, STEP * tl.num_programs(2), num_stages=STAGES):
        index = start + ahead
        real = index < length
        slot = tl.load(slots + row * WIDTH + index, mask=real, other=0).to(tl.int64)
        places = slot[:, None] * (H // GROUP * D) + shared * D + features[None, :]
        key = tl.load(keys + places, mask=real[:, None] & real_feature, other=0.0)
        value = tl.load(values + places, mask=real[:, None] & real_feature, other=0.0)
        scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * (scale * _LOG2_E)
        if BIAS:
            distance = tl.minimum(length - 1 - index, DISTANCES - 1)
            inside = (group < GROUP)[:, None] & real[None, :]
            added = tl.load(bias + head[:, None] * DISTANCES + distance[None, :], mask=inside, other=0.0)
            scores += added.to(tl.float32) * _LOG2_E
        scores = tl.where(real[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        level = _level(higher)
        shares, shrink = tl.exp2(scores - level[:, None]), tl.exp2(highest - level)
        weight = weight * shrink + tl.sum(shares, axis=1)
        total = tl.dot(shares.to(TYPE), value, total * shrink[:, None], input_precision="ieee")
        highest = higher
    _leave(total, weight, highest, row * H, split, group < GROUP, head, features, out, totals, stats, ROWS, D, SPLIT)


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
