"""Triton kernels between the products of a step with many rows; :mod:`flagai.kernels.decode.many_rows` calls them."""

import triton
import triton.language as tl

from flagai.kernels.triton.decode import apply_activation, layer_norm_row


@triton.jit
def bias_to_slots_kernel(
    qkv, query_bias, key_bias, value_bias, slot_mapping, keys, values,
    N: tl.constexpr, BN: tl.constexpr, KEEP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Add biases to queries, keys and values, qkv[M, 3, N]; keys and values go to their slots of pools [slots, N].

    With KEEP they stay where they are, too.
    """
    TYPE: tl.constexpr = qkv.dtype.element_ty
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row, which = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BN)
    inside = columns < N
    if which == 0:
        bias = query_bias
    elif which == 1:
        bias = key_bias
    else:
        bias = value_bias
    places = qkv + (row * 3 + which) * N + columns
    found = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    found = (found + tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)).to(TYPE)
    if KEEP or which == 0:
        tl.store(places, found, mask=inside)
    if which > 0:
        slot = tl.load(slot_mapping + row)
        if which == 1:
            tl.store(keys + slot * N + columns, found, mask=inside)
        else:
            tl.store(values + slot * N + columns, found, mask=inside)


@triton.jit
def residual_norm_kernel(
    residual, product, bias, gain, shift, eps, out, normed,
    K: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[M, K] = residual + (product + bias), and its norm, a row a program."""
    TYPE: tl.constexpr = out.dtype.element_ty
    columns = tl.arange(0, BK)
    inside = columns < K
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    biases = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        gains = tl.load(gain + columns, mask=inside, other=0.0).to(tl.float32)
        shifts = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
    places = tl.program_id(0).to(tl.int64) * K + columns
    # Rounded where the plain computation has a tensor.
    added = (tl.load(product + places, mask=inside, other=0.0).to(tl.float32) + biases).to(TYPE).to(tl.float32)
    total = (tl.load(residual + places, mask=inside, other=0.0).to(tl.float32) + added).to(TYPE)
    tl.store(out + places, total, mask=inside)
    if NORM:
        found = layer_norm_row(total.to(tl.float32), inside, gains, shifts, eps, K, TYPE)
        tl.store(normed + places, found.to(TYPE), mask=inside)


@triton.jit(do_not_specialize=["SIZE"])
def bias_act_kernel(
    product, bias, SIZE, N: tl.constexpr, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr, PDL: tl.constexpr
):
    """product[M, N] = activation(product + bias), in place."""
    TYPE: tl.constexpr = product.dtype.element_ty
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < SIZE
    found = tl.load(product + places, mask=inside, other=0.0).to(tl.float32)
    found += tl.load(bias + places % N, mask=inside, other=0.0).to(tl.float32)
    found = apply_activation(found.to(TYPE).to(tl.float32), ACTIVATION)
    tl.store(product + places, found.to(TYPE), mask=inside)
