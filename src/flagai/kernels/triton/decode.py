"""Triton kernels of a decoding step; :mod:`flagai.kernels.decode.ops` calls them and says what they compute.

A step reads every weight once and computes next to nothing, so everything is arranged for reading: a program holds its
rows of a matrix in registers, all loads are under way before the first is used, and small work that would be a kernel
of its own (bias, activation, residual, writing into the cache) is done by the programs that need it.

With ``PDL`` (programmatic dependent launch) a kernel's programs start while the kernel before is still running,
load their weights, and only then wait for its results. Every kernel waits before it reads or writes anything that
another one of the same step writes; caches are older, and so is what a step is told before its first kernel.
"""

import triton
import triton.language as tl


@triton.jit
def apply_activation(y, ACTIVATION: tl.constexpr):
    """Apply an activation."""
    if ACTIVATION == "gelu":
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        y = y * tl.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y))
    elif ACTIVATION == "relu":
        y = tl.maximum(y, 0.0)
    elif ACTIVATION == "silu":
        y = y * tl.sigmoid(y)
    return y


@triton.jit
def layer_norm_row(row, inside, gain, shift, eps, K: tl.constexpr, TYPE: tl.constexpr):
    """Normalise a row, and round it as a tensor of TYPE is."""
    mean = tl.sum(row, axis=0) / K
    centred = tl.where(inside, row - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / K + eps)
    return (centred * scale * gain + shift).to(TYPE).to(tl.float32)


@triton.jit
def load_weights(matrix, rows, columns, N, K: tl.constexpr, BK: tl.constexpr):
    """Some rows of a matrix. Read once and never again: first to leave the caches, where the tokens stay."""
    places = rows.to(tl.int64)[:, None] * K + columns[None, :]
    inside = (rows < N)[:, None]
    if K % BK != 0:
        inside &= (columns < K)[None, :]
    return tl.load(matrix + places, mask=inside, other=0.0, eviction_policy="evict_first")


@triton.jit
def norm_kernel(x, gain, shift, eps, out, K: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr):
    """out[M, K] = norm(x)[M, K], a row a program."""
    TYPE: tl.constexpr = x.dtype.element_ty
    columns = tl.arange(0, BK)
    inside = columns < K
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    weights = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
    biases = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    places = tl.program_id(0) * K + columns
    row = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, layer_norm_row(row, inside, weights, biases, eps, K, TYPE).to(TYPE), mask=inside)


@triton.jit
def _prefetch(matrix, first, N, K: tl.constexpr, BN: tl.constexpr):
    # Rows of a matrix come into the L2 cache, 64 numbers a thread and turn.
    lines = tl.arange(0, 128)
    last = (N - first) * K // 64 - 1
    for start in range(0, BN * K // 64, 128):
        at = matrix + first.to(tl.int64) * K + tl.minimum(start + lines, last) * 64
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at.to(tl.int64)], tl.int32, is_pure=False, pack=1
        )


@triton.jit
def rows_gemm(
    x, matrix, rows, N, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):
    """Several tokens: tensor cores, tokens padded to MP; the compiler keeps the next tiles under way.

    Four sums, one a warp, since a tensor core waits for its last sum before it adds to it.
    """
    PART: tl.constexpr = BK // 4
    part, columns = tl.arange(0, 4)[:, None, None] * PART, tl.arange(0, PART)
    index = tl.arange(0, MP)[None, :, None]
    total = tl.zeros([4, MP, BN], dtype=tl.float32)
    for start in range(0, K, BK):
        ours, theirs = start + part + columns[None, None, :], start + part + columns[None, :, None]
        inside, wanted = index < M, (rows < N)[None, None, :]
        if K % BK != 0:
            inside &= ours < K
            wanted &= theirs < K
        tokens = tl.load(x + index * K + ours, mask=inside, other=0.0)
        places = rows.to(tl.int64)[None, None, :] * K + theirs
        weights = tl.load(matrix + places, mask=wanted, other=0.0, eviction_policy="evict_first")
        total = tl.dot(tokens, weights, total)
    return tl.sum(total, axis=0)


@triton.jit
def rows_matmul(
    x, matrix, rows, N, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Multiply x by some rows of a matrix, [MP, BN]; they are loaded, or at least come nearer, before x is there.

    One token meets whole rows in registers. Several: see :func:`rows_gemm`.
    """
    if M == 1:
        columns = tl.arange(0, BK)
        tile = load_weights(matrix, rows, columns, N, K, BK)
        if PDL:
            tl.extra.cuda.gdc_wait()
        row = tl.load(x + columns, mask=columns < K, other=0.0).to(tl.float32)
        total = tl.sum(tile.to(tl.float32) * row[None, :], axis=1)[None, :]
    else:
        if PDL:
            if BN * K <= 65536:  # wide matrices would drive each other out of the cache
                _prefetch(matrix, tl.min(rows, axis=0), N, K, BN)
            tl.extra.cuda.gdc_wait()
        total = rows_gemm(x, matrix, rows, N, K, M, MP, BN, BK)
    return total


@triton.jit
def linear_act_residual_kernel(
    x, matrix, bias, residual, out, N, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, ACTIVATION: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[M, N] = activation(x[M, K] @ matrix[N, K].T + bias) + residual."""
    TYPE: tl.constexpr = x.dtype.element_ty
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    index = tl.arange(0, MP)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    total = rows_matmul(x, matrix, rows, N, K=K, M=M, MP=MP, BN=BN, BK=BK, PDL=PDL)
    if BIAS:
        total += tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)[None, :]
    # Rounded where the plain computation has a tensor.
    total = apply_activation(total.to(TYPE).to(tl.float32), ACTIVATION)
    places = index[:, None] * N + rows[None, :]
    inside = (index < M)[:, None] & (rows < N)[None, :]
    if RESIDUAL:
        total = total.to(TYPE).to(tl.float32) + tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, total.to(TYPE), mask=inside)


@triton.jit
def qkv_to_cache_kernel(
    x, query_matrix, key_matrix, value_matrix, query_bias, key_bias, value_bias, query, keys, values, slot_mapping,
    N, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Queries of x[M, K] into query[M, N]; keys and values into their slots of pools [slots, N]."""
    TYPE: tl.constexpr = x.dtype.element_ty
    blocks = tl.cdiv(N, BN)
    which = tl.program_id(0) // blocks
    rows = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    index = tl.arange(0, MP)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    if which == 0:
        matrix = query_matrix
        bias = query_bias
    elif which == 1:
        matrix = key_matrix
        bias = key_bias
    else:
        matrix = value_matrix
        bias = value_bias
    total = rows_matmul(x, matrix, rows, N, K=K, M=M, MP=MP, BN=BN, BK=BK, PDL=PDL)
    total += tl.load(bias + rows, mask=rows < N, other=0.0).to(tl.float32)[None, :]
    store_qkv(total.to(TYPE), which, index, rows, query, keys, values, slot_mapping, N, M)


@triton.jit
def store_qkv(total, which, index, rows, query, keys, values, slot_mapping, N, M: tl.constexpr):
    """Store queries, keys or values (which: 0, 1, 2) of tokens, some features of each, where they belong."""
    inside = (index < M)[:, None] & (rows < N)[None, :]
    if which == 0:
        tl.store(query + index[:, None] * N + rows[None, :], total, mask=inside)
    else:
        slots = tl.load(slot_mapping + index, mask=index < M, other=0)
        places = slots[:, None] * N + rows[None, :]
        if which == 1:
            tl.store(keys + places, total, mask=inside)
        else:
            tl.store(values + places, total, mask=inside)


@triton.jit
def _softmax_of_more(asked, key, value, inside, highest, weight, total):
    # Some keys more of a softmax that is computed as it goes.
    scores = tl.where(inside, tl.sum(key.to(tl.float32) * asked[None, :], axis=1), -float("inf"))
    higher = tl.maximum(highest, tl.max(scores, axis=0))
    shares = tl.exp(scores - higher)
    shrink = tl.exp(highest - higher)
    weight = weight * shrink + tl.sum(shares, axis=0)
    total = total * shrink + tl.sum(shares[:, None] * value.to(tl.float32), axis=0)
    return higher, weight, total


@triton.jit
def _load_keys(keys, values, slots, inside, head, H, D: tl.constexpr, BD: tl.constexpr):
    # The keys and values of a head in some slots, [slots, BD].
    features = tl.arange(0, BD)
    places = (slots.to(tl.int64) * H + head)[:, None] * D + features[None, :]
    mask = inside[:, None] & (features < D)[None, :]
    return tl.load(keys + places, mask=mask, other=0.0), tl.load(values + places, mask=mask, other=0.0)


@triton.jit
def decode_attention_kernel(
    query, keys, values, table, lengths, parts, arrived, out, scale, H, ROW_STRIDE, M, D: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, SP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token's head attends to a split of its keys; the last split to arrive adds up all. [M, H, D] and pools."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    token, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    features, row = tl.arange(0, BD), token * H + head
    length = tl.load(lengths + token)
    per_split = tl.maximum(tl.cdiv(tl.cdiv(length, tl.num_programs(2)), BC), 1) * BC
    splits = tl.maximum(tl.cdiv(length, per_split), 1)
    if split < splits:
        begin = split * per_split
        end = tl.minimum(begin + per_split, length)
        # What earlier steps wrote comes while the kernels before this one are at work. At most the last M keys of a
        # token are of this step.
        index = begin + tl.arange(0, BC)
        slots = tl.load(table + token * ROW_STRIDE + index, mask=index < end, other=0)
        older, newer = index < tl.minimum(end, length - M), (index < end) & (index >= length - M)
        key, value = _load_keys(keys, values, slots, older, head, H, D, BD)
        if PDL:
            tl.extra.cuda.gdc_wait()
        new_key, new_value = _load_keys(keys, values, slots, newer, head, H, D, BD)
        key, value = tl.where(older[:, None], key, new_key), tl.where(older[:, None], value, new_value)
        asked = tl.load(query + row * D + features, mask=features < D, other=0.0).to(tl.float32) * scale
        highest = tl.full([1], -1e30, tl.float32)
        weight = tl.zeros([1], dtype=tl.float32)
        total = tl.zeros([BD], dtype=tl.float32)
        highest, weight, total = _softmax_of_more(asked, key, value, index < end, highest, weight, total)
        for start in range(begin + BC, end, BC):
            index = start + tl.arange(0, BC)
            slots = tl.load(table + token * ROW_STRIDE + index, mask=index < end, other=0)
            key, value = _load_keys(keys, values, slots, index < end, head, H, D, BD)
            highest, weight, total = _softmax_of_more(asked, key, value, index < end, highest, weight, total)
        if splits > 1:
            _add_up(parts, arrived, out, row, split, splits, highest, weight, total, D, BD, SP)
        else:
            found = total / tl.where(weight > 0, weight, 1.0)
            tl.store(out + row * D + features, found.to(out.dtype.element_ty), mask=features < D)


@triton.jit
def _add_up(
    parts, arrived, out, row, split, splits, highest, weight, total, D: tl.constexpr, BD: tl.constexpr,
    SP: tl.constexpr,
):  # fmt: skip
    # Leave a split's sums, weight and highest score in parts[row, split, BD + 2]; the last split to arrive adds up.
    LINE: tl.constexpr = BD + 2
    features = tl.arange(0, BD)
    mine = parts + (row * SP + split) * LINE
    tl.store(mine + features, total)
    tl.store(mine + BD + tl.arange(0, 1), weight)
    tl.store(mine + BD + 1 + tl.arange(0, 1), highest)
    tl.debug_barrier()  # the stores of all threads come before the count
    if tl.atomic_add(arrived + row, 1, sem="acq_rel") == splits - 1:
        others = tl.arange(0, SP)
        lines, there = parts + (row * SP + others) * LINE, others < splits
        levels = tl.load(lines + BD + 1, mask=there, other=-1e30, cache_modifier=".cg")
        weights = tl.load(lines + BD, mask=there, other=0.0, cache_modifier=".cg")
        totals = tl.load(lines[:, None] + features[None, :], mask=there[:, None], other=0.0, cache_modifier=".cg")
        shares = tl.exp(levels - tl.max(levels, axis=0))
        found = tl.sum(totals * shares[:, None], axis=0) / tl.sum(weights * shares, axis=0)
        tl.store(out + row * D + features, found.to(out.dtype.element_ty), mask=features < D)
        tl.store(arrived + row, 0)
