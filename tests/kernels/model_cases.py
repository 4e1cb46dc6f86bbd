"""Cases of the operations that run whole models: compiled blocks and steps of generation."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import nn

from flagai.model.layer.packed_row import PackedRow
from tests import tiny
from tests.kernels.case import HALF, HALVES, Call, Case, list_of
from tests.kernels.conftest import DEVICE
from tests.kernels.paged_cases import many_rows_cases
from tests.kernels.steps import decoding_arguments, search_arguments


def compiled_call(name: str | None, dtype: torch.dtype | None) -> Callable[[str], Call]:
    """A model whose loss and gradients are compared, of padded texts and of packed ones."""

    def make(device: str) -> Call:
        if name is None:
            return Call((nn.Linear(2, 2),), {}, list_of)
        layers = {"n_layer" if name == "GPT2Model" else "num_hidden_layers": 1}
        model = tiny.build(name, **layers).to(device)
        batch = {key: value.to(device) for key, value in tiny.batch(name).items()}
        flat = {key: value.reshape(1, -1) for key, value in batch.items()} | {"lengths": PackedRow((7, 12, 2))}

        def observed(_: None) -> dict[str, Any]:
            with torch.compiler.set_stance("force_eager"), torch.autocast(DEVICE, dtype, dtype is not None):
                losses = [model(**given)["loss"] for given in (batch, flat)]
            torch.stack(losses).sum().backward()
            gradients = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
            return {"losses": losses, **gradients}

        return Call((model,), {}, observed)

    return make


def compiled_cases() -> Iterator[Case]:
    """A post-norm and a pre-norm model, in float32 and under autocast."""
    kernel = "compiled.blocks.compile_fused_blocks"
    for name, dtype in (("BertForMaskLM", None), ("BertForMaskLM", HALF), ("GPT2Model", HALF)):
        about, context = f"{name}, autocast {dtype}", torch.enable_grad
        yield Case(kernel, about, compiled_call(name, dtype), dtype=dtype or torch.float32, context=context)
    yield Case("plain", "no blocks", compiled_call(None, None))


def decoding_cases() -> Iterator[Case]:
    """Steps of every family with one token and several, quantized, in half precision and in float32."""
    fused, t5, cpu = "decode.select.fused_blocks", "decode.select.fused_t5_blocks", "cpu.decode_block.cpu_blocks"
    some = ((9,), (20, 1, 5))
    for dtype, lengths, kind in product(HALVES, some, ("gpt2", "glm", "bert", "t5", "t5-gated")):
        chosen = {"bert": "plain", "t5": t5, "t5-gated": t5}.get(kind, fused)
        make = step_call(kind, dtype, lengths)
        yield Case(chosen, f"{kind}, {dtype}, {lengths} keys", make, dtype=dtype, context=torch.inference_mode)
    for how in ("int8", "int4"):
        make = step_call("glm-wide", HALF, (9, 0), quantize=how)
        yield Case(fused, f"{how} weights", make, dtype=HALF, context=torch.inference_mode)
    rotary = "decode.rotary_block.rotary_blocks"
    for dtype, lengths, kind in product(HALVES, some, ("chatglm", "chatglm2", "glm4")):
        chosen, make = "plain" if kind == "chatglm" else rotary, step_call(kind, dtype, lengths)
        yield Case(chosen, f"{kind}, {dtype}, {lengths} keys", make, dtype=dtype, context=torch.inference_mode)
    many = step_call("glm4", HALF, (6, 0, *range(1, 18)))
    yield Case(rotary, "glm4, many tokens", many, dtype=HALF, context=torch.inference_mode)
    for how, prepared in product((None, "int8", "int4"), (False, True)):
        make = step_call("chatglm2-wide", HALF, (9, 0), quantize=how, prepared=prepared)
        about = f"{how} weights of ChatGLM2, side by side: {prepared}"
        yield Case(rotary, about, make, dtype=HALF, context=torch.inference_mode)
        if prepared:
            make = step_call("chatglm2-wide", HALF, (9,), quantize=how, prepared=True)
            yield Case(rotary, f"{about}, one token", make, dtype=HALF, context=torch.inference_mode)
    for lengths, kind in product(some, ("gpt2", "glm", "bert", "t5", "chatglm", "chatglm2", "glm4")):
        chosen = cpu if kind in ("gpt2", "glm") else "plain"
        make = step_call(kind, torch.float32, lengths)
        yield Case(chosen, f"{kind} on a CPU, {lengths} keys", make, "cpu", context=torch.inference_mode)
    yield Case("plain", "gradients", step_call("gpt2", HALF, (9,)), dtype=HALF, context=torch.enable_grad)
    hooked = step_call("gpt2", HALF, (9,), hooked=True)
    yield Case("plain", "a hook", hooked, dtype=HALF, context=torch.inference_mode)
    yield from many_rows_cases()


def step_call(kind: str, dtype: torch.dtype, lengths: tuple[int, ...], **more: Any) -> Callable[[str], Call]:
    """The blocks' call in a step of generation; the cache is compared, too."""
    return lambda device: Call(*decoding_arguments(kind, device, dtype, lengths, **more))


def search_cases() -> Iterator[Case]:
    """Steps with stop ids and with forbidden ids; others."""
    greedy, drawing, beams = (f"decode.search_steps.{name}_step" for name in ("greedy", "drawing", "beam"))
    drawn: dict[str, Any] = {"do_sample": True, "seed": 5, "num_return_sequences": 2}
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "stops": (greedy, {"stop_token_ids": tuple(range(2, 30, 4))}),
        "banned": (greedy, {"stop_token_ids": (2, 17), "suppress_tokens": (3, 9, 12)}),
        "few ids": (greedy, {"max_new_tokens": 4}),
        "many banned": ("plain", {"suppress_tokens": tuple(range(3, 20))}),
        "drawing": (drawing, drawn),
        "drawing of the best": (drawing, {**drawn, "temperature": 0.7, "top_k": 6, "top_p": 0.9}),
        "drawing of a share": ("plain", {**drawn, "top_p": 0.9}),
        "penalty": ("plain", {"repetition_penalty": 2.0}),
    }
    for kind, about, steps in product(("gpt2", "glm-blanks", "t5"), options, (0, 3)):
        chosen, own = options[about]
        make = search_call(kind, HALF, steps, own)
        yield Case(chosen, f"{kind}, {about}, after {steps}", make, context=torch.inference_mode)
    searches: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("plain", "greedy", {}),
        (drawing, "drawing", drawn),
        (beams, "beams", {"num_beams": 3, "stop_token_ids": (2, 17, 21, 30), "suppress_tokens": (3, 9)}),
    )
    for (chosen, about, own), steps in product(searches, (0, 3)):
        make = search_call("gpt2", torch.float32, steps, own)
        yield Case(chosen, f"{about} in float32, after {steps}", make, context=torch.inference_mode)


def search_call(kind: str, dtype: torch.dtype, steps: int, options: dict[str, Any]) -> Callable[[str], Call]:
    """A search after some steps; everything that a step changes is compared."""
    return lambda device: Call(*search_arguments(kind, device, dtype, steps, options))


def preparing_cases() -> Iterator[Case]:
    """Blocks in half precision and in float32: parameters keep their values."""

    def call(dtype: torch.dtype, name: str = "GPT2Model") -> Callable[[str], Call]:
        def make(device: str) -> Call:
            blocks = tiny.build(name).to(device, dtype).eval().blocks
            return Call((blocks,), {}, lambda _: dict(blocks.named_parameters()))

        return make

    yield Case("decode.many_rows.join_projections", "GPT-2", call(HALF), dtype=HALF)
    gated = call(HALF, "ChatGLM2Model")
    yield Case("decode.rotary_block.join_gated_projections", "ChatGLM2", gated, dtype=HALF)
    yield Case("plain", "float32", call(torch.float32))


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "compile_blocks": compiled_cases,
    "cached_blocks": decoding_cases,
    "search_step": search_cases,
    "prepare_decoding": preparing_cases,
}
