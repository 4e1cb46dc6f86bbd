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
def _weights(matrix, rows, columns, N, K: tl.constexpr, BK: tl.constexpr):
    # Read once and never again: first to leave the caches, where the tokens stay.
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
def rows_gemm(
    x, matrix, rows, N, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):
    """Several tokens: tensor cores, tokens padded to MP; the compiler keeps the next tiles under way."""
    index = tl.arange(0, MP)
    columns = tl.arange(0, BK)
    total = tl.zeros([MP, BN], dtype=tl.float32)
    for start in range(0, K, BK):
        here = start + columns
        inside = (index < M)[:, None]
        if K % BK != 0:
            inside &= (here < K)[None, :]
        tokens = tl.load(x + index[:, None] * K + here[None, :], mask=inside, other=0.0)
        total = tl.dot(tokens, tl.trans(_weights(matrix, rows, here, N, K, BK)), total)
    return total


@triton.jit
def rows_matmul(
    x, matrix, rows, N, K: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Multiply x by some rows of a matrix, [MP, BN]. One token: whole rows in registers, loaded before x is there."""
    if M == 1:
        columns = tl.arange(0, BK)
        tile = _weights(matrix, rows, columns, N, K, BK)
        if PDL:
            tl.extra.cuda.gdc_wait()
        row = tl.load(x + columns, mask=columns < K, other=0.0).to(tl.float32)
        total = tl.sum(tile.to(tl.float32) * row[None, :], axis=1)[None, :]
    else:
        if PDL:
            tl.extra.cuda.gdc_wait()
        total = rows_gemm(x, matrix, rows, N, K, M, MP, BN, BK)
    return total


@triton.jit
def linear_act_residual_kernel(
    x,
    matrix,
    bias,
    residual,
    out,
    N,
    K: tl.constexpr,
    M: tl.constexpr,
    MP: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
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
    x,
    query_matrix,
    key_matrix,
    value_matrix,
    query_bias,
    key_bias,
    value_bias,
    query,
    keys,
    values,
    write_index,
    N,
    CAPACITY,
    K: tl.constexpr,
    M: tl.constexpr,
    MP: tl.constexpr,
    BEAMS: tl.constexpr,
    D: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Queries of x[M, K] into query[M, N]; keys and values into their slots of a cache [B, H, capacity, D]."""
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
    inside = (index < M)[:, None] & (rows < N)[None, :]
    if which == 0:
        tl.store(query + index[:, None] * N + rows[None, :], total.to(TYPE), mask=inside)
    else:
        slot = tl.load(write_index + index % BEAMS)
        text_head = (index // BEAMS)[:, None] * (N // D) + (rows // D)[None, :]
        places = (text_head.to(tl.int64) * CAPACITY + slot[:, None]) * D + (rows % D)[None, :]
        if which == 1:
            tl.store(keys + places, total.to(TYPE), mask=inside)
        else:
            tl.store(values + places, total.to(TYPE), mask=inside)


@triton.jit
def _attended(asked, key, value, attends, written, highest, weight, total):
    # Some slots more of a softmax that is computed as it goes.
    visible = tl.load(attends, mask=written, other=0)
    scores = tl.where(visible != 0, tl.sum(key.to(tl.float32) * asked[None, :], axis=1), -float("inf"))
    higher = tl.maximum(highest, tl.max(scores, axis=0))
    level = tl.where(higher == -float("inf"), 0.0, higher)
    shares = tl.exp(scores - level)
    shrink = tl.exp(highest - level)
    weight = weight * shrink + tl.sum(shares, axis=0)
    total = total * shrink + tl.sum(shares[:, None] * value.to(tl.float32), axis=0)
    return higher, weight, total


@triton.jit
def decode_attention_kernel(
    query,
    keys,
    values,
    attn_mask,
    write_index,
    out,
    scale,
    H,
    CAPACITY,
    TEXT_STRIDE,
    LANE_STRIDE,
    BEAMS: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BC: tl.constexpr,
    PDL: tl.constexpr,
):
    """One token's head attends to the written slots that it attends; [M, H, D] and caches [B, H, capacity, D]."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    token, head = tl.program_id(0), tl.program_id(1)
    text, lane = token // BEAMS, token % BEAMS
    features = tl.arange(0, BD)
    real = features < D
    base = (text * H + head).to(tl.int64) * CAPACITY * D
    # What earlier steps wrote comes while the kernels before this one are at work; their slots come after them.
    slots = tl.arange(0, BC)
    places = base + slots[:, None] * D + features[None, :]
    new = tl.load(write_index).to(tl.int32)
    old = (slots < new)[:, None] & real[None, :]
    key = tl.load(keys + places, mask=old, other=0.0)
    value = tl.load(values + places, mask=old, other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
    end = tl.load(write_index + BEAMS - 1).to(tl.int32) + 1
    written = slots < end
    inside = ((slots >= new) & written)[:, None] & real[None, :]
    key = tl.where(old, key, tl.load(keys + places, mask=inside, other=0.0))
    value = tl.where(old, value, tl.load(values + places, mask=inside, other=0.0))
    asked = tl.load(query + (token * H + head) * D + features, mask=real, other=0.0).to(tl.float32) * scale
    attends = attn_mask + text * TEXT_STRIDE + lane * LANE_STRIDE
    highest = tl.full([1], -float("inf"), tl.float32)
    weight = tl.zeros([1], dtype=tl.float32)
    total = tl.zeros([BD], dtype=tl.float32)
    highest, weight, total = _attended(asked, key, value, attends + slots, written, highest, weight, total)
    for start in range(BC, end, BC):
        slots = start + tl.arange(0, BC)
        written = slots < end
        places = base + slots[:, None] * D + features[None, :]
        inside = written[:, None] & real[None, :]
        key = tl.load(keys + places, mask=inside, other=0.0)
        value = tl.load(values + places, mask=inside, other=0.0)
        highest, weight, total = _attended(asked, key, value, attends + slots, written, highest, weight, total)
    found = total / weight
    tl.store(out + (token * H + head) * D + features, found.to(out.dtype.element_ty), mask=real)
