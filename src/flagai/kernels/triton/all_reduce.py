"""Triton kernels of a tensor-parallel decode step, which :mod:`flagai.kernels.decode.fused_all_reduce` launches.

Each rank holds some inner features, so a product gives it a part of every output. The programs of the product write
their parts straight into the buffers of all ranks (:class:`~flagai.parallel.symmetric_memory.SymmetricBuffer`); one
program per token then sums what has arrived, in the same order on every rank, and does what follows a sum: bias,
residual, norm. So a sum costs one way through the link and no kernel more than without it.
"""

import triton
import triton.language as tl

from flagai.kernels.triton.decode import layer_norm_row, rows_matmul

# How often a program looks before it gives up, in minutes rather than seconds: a rank may wait for its host.
_PATIENCE = tl.constexpr(1 << 30)


@triton.jit
def _sequence_number(step_counter, number):
    # Which sum of which step, in 32 bits; 0, with which buffers begin, is none of the first millions.
    return (tl.load(step_counter) * 4096 + number + 1) & 0xFFFFFFFF


@triton.jit(do_not_specialize=["number"])
def send_kernel(
    x,
    matrix,
    peer_addresses,
    step_counter,
    number,
    N,
    CAPACITY,
    K: tl.constexpr,
    M: tl.constexpr,
    MP: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    RANK: tl.constexpr,
    COUNT: tl.constexpr,
    PDL: tl.constexpr,
):
    """Leave x[M, K] @ matrix[N, K].T, this rank's part of a sum, in the buffers of all ranks."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    index = tl.arange(0, MP)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    total = rows_matmul(x, matrix, rows, N, K=K, M=M, MP=MP, BN=BN, BK=BK, PDL=PDL)
    bits = total.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    words = bits | (_sequence_number(step_counter, number) << 32)
    inside = (index < M)[:, None] & (rows < N)[None, :]
    offsets = ((number % 2) * COUNT + RANK) * CAPACITY + index[:, None] * N + rows[None, :]
    for rank in tl.static_range(COUNT):
        peer = tl.load(peer_addresses + rank).to(tl.pointer_type(tl.int64))
        tl.store(peer + offsets, words, mask=inside)


@triton.jit
def _finish(
    total, row, columns, inside, bias, residual, gains, shifts, eps, out, normed,
    N: tl.constexpr, BIAS: tl.constexpr, NORM: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    # Rounded where the plain computation has a tensor.
    if BIAS:
        total += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    places = row * N + columns
    before = tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    total = (total.to(TYPE).to(tl.float32) + before).to(TYPE)
    tl.store(out + places, total, mask=inside)
    if NORM:
        tl.store(
            normed + places, layer_norm_row(total.to(tl.float32), inside, gains, shifts, eps, N, TYPE).to(TYPE), inside
        )


@triton.jit(do_not_specialize=["number"])
def receive_kernel(
    slots,
    step_counter,
    number,
    bias,
    residual,
    gain,
    shift,
    eps,
    out,
    normed,
    CAPACITY,
    N: tl.constexpr,
    BK: tl.constexpr,
    COUNT: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    PDL: tl.constexpr,
):
    """out[M, N] = sum of all ranks' parts + bias + residual, and normed[M, N] = norm(out); a token a program."""
    TYPE: tl.constexpr = residual.dtype.element_ty
    columns = tl.arange(0, BK)
    inside = columns < N
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    gains = tl.zeros([BK], dtype=tl.float32)
    shifts = tl.zeros([BK], dtype=tl.float32)
    if NORM:
        gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
        shifts = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0)
    expected = _sequence_number(step_counter, number)
    total = tl.zeros([BK], dtype=tl.float32)
    for rank in tl.static_range(COUNT):
        offsets = ((number % 2) * COUNT + rank) * CAPACITY + row * N + columns
        found = tl.load(slots + offsets, mask=inside, other=0, volatile=True)
        absent = tl.sum((inside & (((found >> 32) & 0xFFFFFFFF) != expected)).to(tl.int32), axis=0)
        looked = 0
        while (absent > 0) & (looked < _PATIENCE):
            found = tl.load(slots + offsets, mask=inside, other=0, volatile=True)
            absent = tl.sum((inside & (((found >> 32) & 0xFFFFFFFF) != expected)).to(tl.int32), axis=0)
            looked += 1
        part = (found & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
        total += tl.where(absent > 0, float("nan"), tl.where(inside, part, 0.0))
    _finish(
        total, row, columns, inside, bias, residual, gains, shifts, eps, out, normed,
        N=N, BIAS=BIAS, NORM=NORM, TYPE=TYPE,
    )  # fmt: skip


@triton.jit
def bias_residual_norm_kernel(
    sums, bias, residual, gain, shift, eps, out, normed,
    N: tl.constexpr, BK: tl.constexpr, BIAS: tl.constexpr, NORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The same for sums[M, N] that something else has added up."""
    TYPE: tl.constexpr = residual.dtype.element_ty
    columns = tl.arange(0, BK)
    inside = columns < N
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    gains = tl.zeros([BK], dtype=tl.float32)
    shifts = tl.zeros([BK], dtype=tl.float32)
    if NORM:
        gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
        shifts = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    row = tl.program_id(0)
    total = tl.load(sums + row * N + columns, mask=inside, other=0.0).to(tl.float32)
    _finish(
        total, row, columns, inside, bias, residual, gains, shifts, eps, out, normed,
        N=N, BIAS=BIAS, NORM=NORM, TYPE=TYPE,
    )  # fmt: skip
