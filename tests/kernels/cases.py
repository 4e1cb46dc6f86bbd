"""Arguments of every operation, and which implementation must compute them; see test_operations.py.

A generator for each operation stands in CASES, here or in model_cases.py, under the operation's name. A case names the
implementation that must be chosen for it, or "plain" where every implementation must refuse.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn

from flagai.model.layer.mask import Causal, Mask, Packed, prepare_mask
from flagai.model.layer.packed_row import PackedRow
from flagai.model.layer.quantized_linear import QuantizedLinear
from flagai.model.layer.sdpa import AttentionMask
from tests import tiny
from tests.kernels.case import HALF, HALVES, Call, Case, Context, list_of, with_gradients
from tests.kernels.conftest import DEVICE
from tests.kernels.paged_cases import paged_attention_cases


@contextmanager
def threads(count: int) -> Iterator[None]:
    """No gradients, on so many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def autocast(dtype: torch.dtype, *, gradients: bool = False) -> Context:
    """A context of autocast on the device of the kernels."""

    @contextmanager
    def entered() -> Iterator[None]:
        with torch.set_grad_enabled(gradients), torch.autocast(DEVICE, dtype):
            yield

    return entered


# How a matrix lies in memory, [out, in].
LAYOUTS: dict[str, Callable[[int, int], torch.Tensor]] = {
    "rows": lambda out, size: torch.randn(out, size),
    "transposed": lambda out, size: torch.randn(size, out).t(),
    "transposed window": lambda out, size: torch.randn(size, 3 * out)[:, out : 2 * out].t(),
    "window of rows": lambda out, size: torch.randn(out + 5, size)[5:],
    "window of columns": lambda out, size: torch.randn(out, 2 * size)[:, size:],
}
ACTIVATIONS = (None, "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh")


def linear_call(
    shape: tuple[int, ...],
    outputs: int,
    *,
    layout: str = "rows",
    bias: bool = True,
    activation_name: str | None = None,
    dtype: torch.dtype = torch.float32,
    parameter: bool = True,
    strided: bool = False,
) -> Callable[[str], Call]:
    """Arguments for hidden states of a shape."""

    def make(device: str) -> Call:
        size = shape[-1]
        weight = LAYOUTS[layout](outputs, size).div_(size**0.5).to(device, dtype)
        hidden = torch.randn(*reversed(shape)).permute(*reversed(range(len(shape)))) if strided else torch.randn(shape)
        hidden = hidden.to(device, dtype).requires_grad_(torch.is_grad_enabled())
        matrix = nn.Parameter(weight) if parameter else weight
        offset = nn.Parameter(torch.randn(outputs).to(device, dtype)) if bias else None
        leaves = [hidden, matrix, offset] if torch.is_grad_enabled() and offset is not None else []
        return Call((hidden, matrix, offset, activation_name), {}, with_gradients(*leaves) if leaves else list_of)

    return make


def linear_cases() -> Iterator[Case]:
    """Few rows with the matrix in every layout, cut for several cores; many rows; all that torch computes."""
    few, many = "cpu.linear.linear_of_few_rows", "cpu.linear.linear_by_onednn"
    grid = product(LAYOUTS, ((512, 384), (517, 385), (70, 1920)), (1, 3), (1, 2, 3, 5, 6, 15, 64))
    for number, (layout, (outputs, size), cores, rows) in enumerate(grid):
        contiguous = layout in ("rows", "window of rows")
        fused = contiguous and rows >= 16 and rows * outputs * size >= 1 << 22
        make = linear_call(
            (rows, size), outputs, layout=layout, bias=number % 2 > 0, activation_name=(None, "gelu")[number % 3 % 2]
        )
        about = f"{layout}, {outputs} x {size}, {rows} rows, {cores} cores"
        yield Case(many if fused else few, about, make, "cpu", context=partial(threads, cores))
    for name, bias in product(ACTIVATIONS, (True, False)):
        make = linear_call((2, 20, 256), 2048, bias=bias, activation_name=name)
        yield Case(many, f"40 rows, {name}, bias {bias}", make, "cpu")
    for shape in ((256,), (1, 256), (2, 3, 256), (2, 1, 2, 256)):
        yield Case(few, f"shape {shape}", linear_call(shape, 96, activation_name="relu"), "cpu")
        yield Case(few, f"strides, shape {shape}", linear_call(shape, 96, strided=True), "cpu")
    yield Case(many, "a vocabulary", linear_call((2, 3, 100), 9000, bias=False), "cpu")
    yield Case(few, "many rows that lie apart", linear_call((20, 256), 2048, strided=True), "cpu")
    yield Case(few, "many rows, transposed matrix", linear_call((20, 256), 2048, layout="transposed"), "cpu")
    yield Case(few, "little work", linear_call((20, 32), 32), "cpu")
    yield Case("plain", "no rows", linear_call((0, 256), 96), "cpu")
    yield Case("plain", "65 rows, transposed matrix", linear_call((65, 256), 2048, layout="transposed"), "cpu")
    yield Case("plain", "float64", linear_call((3, 256), 2048, dtype=torch.float64), "cpu")
    yield Case("plain", "bfloat16", linear_call((20, 256), 2048, dtype=torch.bfloat16), "cpu", torch.bfloat16)
    yield Case("plain", "a matrix that is not a parameter", linear_call((3, 256), 96, parameter=False), "cpu")
    for rows in (4, 20):
        call = linear_call((rows, 256), 2048, activation_name="gelu")
        yield Case("plain", f"gradients, {rows} rows", call, "cpu", context=torch.enable_grad)
    if DEVICE == "cuda":
        yield Case("plain", "on a GPU", linear_call((3, 256), 96), "triton")
    else:
        yield Case("plain", "autocast", linear_call((20, 256), 2048), "cpu", torch.float16, autocast(torch.float16))


def add_norm_call(
    *shape: int,
    dtype: torch.dtype = HALF,
    change: Callable[[nn.LayerNorm], object] = lambda _: None,
    bias: bool = True,
    strided: bool = False,
) -> Callable[[str], Call]:
    """A norm and two terms of a shape."""

    def make(device: str) -> Call:
        norm = nn.LayerNorm(shape[-1], bias=bias)
        tiny.randomised(norm, 0.3)
        norm.to(device, dtype)
        change(norm)
        hidden, added = (torch.randn(2 * shape[0], *shape[1:]).to(device, dtype) for _ in range(2))
        return Call((norm, hidden[::2] if strided else hidden[: shape[0]], added[: shape[0]]))

    return make


def plus_one(_: nn.Module, __: Any, result: torch.Tensor) -> torch.Tensor:
    """A forward hook that changes the result."""
    return result + 1


def add_norm_cases() -> Iterator[Case]:
    """Rows that fill no program, widths that are no power of two; few rows, other norms and other dtypes."""
    kernel = "packed.add_norm.add_norm_triton"
    for dtype, width, shape in product(HALVES, (48, 64), ((1024,), (1, 1031), (3, 401))):
        rows = torch.Size(shape).numel()
        about, call = f"{dtype}, {shape} x {width}", add_norm_call(*shape, width, dtype=dtype)
        yield Case(kernel if rows >= 1024 else "plain", about, call, dtype=dtype)
    refused: dict[str, Callable[[str], Call]] = {
        "few rows": add_norm_call(1, 1023, 48),
        "rows that lie apart": add_norm_call(1100, 48, strided=True),
        "no bias": add_norm_call(1100, 48, bias=False),
        "a hook": add_norm_call(1100, 48, change=lambda norm: norm.register_forward_hook(plus_one)),
        "a forward of its own": add_norm_call(1100, 48, change=lambda norm: setattr(norm, "forward", torch.neg)),
    }
    for about, call in refused.items():
        yield Case("plain", about, call, dtype=HALF)
    yield Case("plain", "float32", add_norm_call(1100, 48, dtype=torch.float32))
    yield Case("plain", "gradients", add_norm_call(1100, 48), dtype=HALF, context=torch.enable_grad)
    yield Case("plain", "autocast", add_norm_call(1100, 48), dtype=HALF, context=autocast(HALF))


def attention_call(
    mask: Mask | AttentionMask | Callable[[str], AttentionMask],
    length: int,
    width: int,
    *,
    dtype: torch.dtype = HALF,
    joint: bool = True,
    **more: float,
) -> Callable[[str], Call]:
    """Queries, keys and values of three heads in one row; ``joint`` cuts them from one product."""

    def make(device: str) -> Call:
        whole = torch.randn(1, length, 3 * 3 * width).to(device, dtype).requires_grad_(torch.is_grad_enabled())
        parts = [part.unflatten(-1, (3, width)).transpose(1, 2) for part in whole.chunk(3, dim=-1)]
        parts = parts if joint else [part.contiguous() for part in parts]
        if isinstance(mask, Mask):
            given = prepare_mask(mask, length, length, torch.device(device))
        else:
            given = mask if isinstance(mask, AttentionMask) else mask(device)

        def merged(result: torch.Tensor) -> list[torch.Tensor]:
            # As in a model, whose gradients have the same strides for every number of tokens. torch 2.11 keeps cuDNN's
            # backward pass for a shape whatever these strides are: for others, the plain path is wrong by up to 4.5.
            return with_gradients(whole)(result.transpose(1, 2).flatten(2))

        return Call((*parts, given), more, merged if torch.is_grad_enabled() else list_of)

    return make


def causal(lengths: tuple[int, ...]) -> Callable[[str], AttentionMask]:
    """The mask of packed prompts, of which no position attends to later ones."""
    row = PackedRow(lengths)
    return lambda device: AttentionMask(causal=True, packed=row, cu_seqlens=row.cu_seqlens(device))


def attention_cases() -> Iterator[Case]:
    """Packed texts with and without gradients, heads side by side and apart; masks and options that torch computes."""
    kernel = "packed.attention.attend_packed"
    lengths: list[tuple[int, ...]] = [(1,), (16, 3, 9), (33, 20, 1, 7), (128, 64, 5)]
    if DEVICE == "cuda":  # flash attention
        lengths.append((200, 3, 40))
    for dtype, texts, width, joint, gradients in product(HALVES, lengths, (8, 24), (True, False), (True, False)):
        if gradients and joint != (width == 24):
            continue  # half of them are enough
        call = attention_call(Packed(PackedRow(texts)), sum(texts), width, dtype=dtype, joint=joint)
        context = torch.enable_grad if gradients else torch.no_grad
        about = f"{dtype}, {texts}, {width} wide, joint {joint}, gradients {gradients}"
        yield Case(kernel, about, call, dtype=dtype, context=context)
    # Gradients of causal texts are flash attention's, which only a GPU has.
    for dtype, texts, width, gradients in product(HALVES, lengths, (8, 24), {False, DEVICE == "cuda"}):
        call = attention_call(causal(texts), sum(texts), width, dtype=dtype)
        context = torch.enable_grad if gradients else torch.no_grad
        about = f"causal, {dtype}, {texts}, {width} wide, gradients {gradients}"
        yield Case(kernel, about, call, dtype=dtype, context=context)
    packed = Packed(PackedRow((5, 9)))
    yield Case("plain", "float32", attention_call(packed, 14, 8, dtype=torch.float32))
    yield Case("plain", "a scale", attention_call(packed, 14, 8, scale=0.5), dtype=HALF)
    yield Case("plain", "dropout", attention_call(packed, 14, 8, dropout=0.5), dtype=HALF)
    yield Case("plain", "an odd head", attention_call(packed, 14, 12), dtype=HALF)
    yield Case("plain", "no packed texts", attention_call(Causal(), 14, 8), dtype=HALF)


def quantized_call(
    bits: int, shape: tuple[int, ...], outputs: int, dtype: torch.dtype, *, bias: bool = True
) -> Callable[[str], Call]:
    """A layer and tokens of a shape."""

    def make(device: str) -> Call:
        layer = QuantizedLinear.of(nn.Linear(shape[-1], outputs, bias=bias), bits).to(device, dtype)
        hidden = torch.randn(shape).to(device, dtype).requires_grad_(torch.is_grad_enabled())
        return Call((layer, hidden), {}, with_gradients(hidden) if torch.is_grad_enabled() else list_of)

    return make


def quantized_cases() -> Iterator[Case]:
    """Both forms of weights, with few and more tokens, of sizes that leave rows over."""
    triton, cpu = "decode.quantized_ops.quantized_linear_triton", "cpu.quantized_linear.quantized_linear_cpu"
    sizes = [(160, 17, 1), (160, 17, 3), (256, 8, 3), (256, 8, 16), (256, 8, 17)]
    if DEVICE == "cuda":
        sizes += [(1024, 768, count) for count in (1, 2, 7, 16, 40)]
    for bits in (8, 4):
        for dtype, (size, outputs, count) in product(HALVES, sizes):
            call = quantized_call(bits, (1, count, size), outputs, dtype, bias=count != 3)
            chosen = triton if count <= 16 else "plain"
            yield Case(chosen, f"{bits} bits, {dtype}, {count} x {size} x {outputs}", call, dtype=dtype)
        for dtype, count, bias in product(
            (torch.float32, torch.bfloat16, torch.float16), (1, 2, 16, 17), (True, False)
        ):
            most = {torch.float32: 1, torch.bfloat16: 16, torch.float16: 0}[dtype]
            call = quantized_call(bits, (1, count, 96), 128, dtype, bias=bias)
            about = f"{bits} bits on a CPU, {dtype}, {count} tokens, bias {bias}"
            yield Case(cpu if count <= most else "plain", about, call, "cpu", dtype)
        odd, half = quantized_call(bits, (1, 96), 17, torch.float32), quantized_call(bits, (1, 96), 128, HALF)
        yield Case("plain", f"{bits} bits on a CPU, 17 rows", odd, "cpu")
        yield Case("plain", f"{bits} bits, float32", quantized_call(bits, (3, 160), 17, torch.float32))
        yield Case("plain", f"{bits} bits, gradients", half, dtype=HALF, context=torch.enable_grad)


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "linear": linear_cases,
    "paged_attention": paged_attention_cases,
    "add_norm": add_norm_cases,
    "scaled_dot_product_attention": attention_cases,
    "quantized_linear": quantized_cases,
}
