"""Compiles every kernel for compute capability 9 and prints what it takes; no GPU is needed.

    PYTHONPATH=src python tests/kernels/compile_for_h100.py [--few]

``--few`` leaves out further sizes of a kernel, in half of the time.

The interpreter forgives what the compiler does not: results of two types, variables that change theirs in a loop, and
assembly, which it never sees.
"""

import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any

from triton import compiler
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flagai.kernels.cuda.launch_plan import LaunchPlan
from flagai.kernels.cuda.nvrtc import Options, image_of
from flagai.kernels.triton import (
    all_reduce,
    beams,
    decode,
    greedy,
    many_rows,
    packed,
    packed_backward,
    paged_attention,
    quantized,
    rms_norm,
    rotary,
    scores,
)

_TARGET = GPUTarget("cuda", 90, 32)
# Of parameters that are no pointers to bfloat16; those in capitals that are not constants are sizes.
_TYPES = {
    "slot_mapping": "*i64", "table": "*i32", "lengths": "*i32", "parts": "*fp32", "arrived": "*i32",
    "step_counter": "*i64", "peer_addresses": "*i64", "slots": "*i64", "ids": "*i64",
    "position_ids": "*i64", "block_ids": "*i64", "seed": "*i64", "attn_mask": "*u8", "offsets": "*i32",
    "eps": "fp32", "scale": "fp32", "number": "i32", "means": "*fp32", "rates": "*fp32", "parameters": "*fp32",
    "sums": "*fp32", "total": "*bf16", "shares": "*fp32",
}  # fmt: skip
# What a greedy choice changes.
_STATE = {
    name: kind
    for kind, names in {
        "*fp32": "parts score running temperature share bests values",
        "*fp64": "masses uniforms limit",
        "*i32": "firsts own_slots slots lengths fed_slots fed_lengths found",
        "*i64": "banned stop_token_ids kept length ids max_new_tokens span_length position block_position blank_index"
        " last_blank blanks tokens token_index next_ids slot_mapping fed_ids fed_positions fed_slot_mapping",
        "*u8": "ended stopped done group_done fed_generated",
    }.items()
    for name in names.split()
}
_SMALL = {
    4: dict.fromkeys(("matrix", "scales", "query_matrix", "key_matrix", "value_matrix"), "*i32")
    | {f"{name}_scales": "*i32" for name in ("query", "key", "value")},
}
_SMALL[8] = {name: "*fp32" if "scales" in name else kind for name, kind in _SMALL[4].items()}
Case = tuple[Any, dict[str, Any], dict[str, str], dict[str, int]]


def cases(few: bool = False) -> Iterator[Case]:
    """Kernel, constants, types of parameters, options of the compiler.

    Args:
        few: leave out further sizes of a kernel.
    """
    step = {"K": 4096, "PDL": True}
    for count in (1, 4):
        cut = {
            "M": count,
            "MP": 1 if count == 1 else 16,
            "BN": 8 if count == 1 else 32,
            "BK": 4096 if count == 1 else 256,
        }
        around = {"ACTIVATION": "gelu", "BIAS": True, "RESIDUAL": True}
        yield decode.linear_act_residual_kernel, step | cut | around, {}, {"num_warps": 8}
        if count == 1 or not few:
            yield decode.qkv_to_cache_kernel, step | cut, {}, {"num_warps": 8}
        else:
            yield decode.qkv_to_cache_kernel, step | cut | {"K": 1024}, {}, {"num_warps": 4}
        split = {"D": 64, "BD": 64, "BC": 128, "SP": 4 // count, "PDL": True}
        yield decode.decode_attention_kernel, split, {}, {"num_warps": 8}
        ranks = {"RANK": 0, "COUNT": 2}
        if count == 1 or not few:
            yield all_reduce.send_kernel, step | cut | ranks, {}, {"num_warps": 8}
            yield from _small(step, count, around, few)
    yield from _choice(few)
    yield decode.norm_kernel, {**step, "BK": 4096}, {}, {"num_warps": 8}
    after = {"N": 4096, "BK": 4096, "BIAS": True, "NORM": True, "PDL": True}
    yield all_reduce.receive_kernel, {**after, "COUNT": 2}, {}, {"num_warps": 16}
    yield all_reduce.bias_residual_norm_kernel, {**after, "PDL": False}, {"sums": "*bf16"}, {"num_warps": 16}
    yield from _paged(few)
    yield rms_norm.rms_norm_kernel, {"K": 768, "BK": 1024, "PDL": True}, {}, {"num_warps": 4}
    angles = dict.fromkeys(("cos", "sin"), "*fp32") | dict.fromkeys(("asked_row", "key_row", "value_row"), "i32")
    turned = {"D": 128, "BD": 128, "TURNED": 64, "PDL": True}
    yield rotary.rotary_to_cache_kernel, turned, angles, {"num_warps": 1}
    yield rotary.swiglu_kernel, {"BLOCK": 1024, "PDL": True}, {"count": "i32"}, {"num_warps": 4}
    row, wide = {"K": 768, "ROWS": 2, "BK": 1024}, {"K": 3072, "ROWS": 8, "BK": 256}
    yield packed.add_norm_kernel, row, {}, {"num_warps": 4}
    for kernel, rows in (
        (packed_backward.dropout_add_norm_kernel, 4),
        (packed_backward.dropout_add_norm_backward_kernel, 2),
    ):
        yield kernel, {**row, "ROWS": rows, "BIAS": True, "DROPPED": 6554}, {"bias": "*fp32"}, {"num_warps": 4}
        if not few:
            yield kernel, {**row, "ROWS": rows, "BIAS": False, "DROPPED": 0}, {}, {"num_warps": 4}
    yield packed_backward.bias_gelu_kernel, wide, {"bias": "*fp32"}, {"num_warps": 4}
    wide |= {"ROWS": 4, "BK": 1024}
    yield packed_backward.bias_gelu_backward_kernel, wide, {"bias": "*fp32"}, {"num_warps": 8}
    for size, warps, registers in ((32, 2, 128), (64, 4, 128), (128, 8, None))[: 1 if few else None]:
        for biased in (True, False)[: 1 if few else None]:
            tile = {"SHORTEST": 1, "BIAS": biased, "H": 12, "D": 64, "BD": 64, "BS": size}
            options = {"num_warps": warps}
            yield packed.short_attention_kernel, {**tile, "CAUSAL": True}, {"bias": "*fp32"}, options
            learning = options if registers is None else options | {"maxnreg": registers}
            yield packed_backward.short_attention_backward_kernel, tile, {"bias": "*fp32"}, learning


def _paged(few: bool) -> Iterator[Case]:
    """Attention to a paged cache, with parts of a token's keys and with all; what a step of many rows does besides."""
    types = {"slots": "*i32", "lengths": "*i32", "totals": "*fp32", "stats": "*fp32"}
    head = {"H": 16, "D": 64, "BD": 64, "PDL": True}
    for split, bias in ((False, False), (True, True))[: 1 if few else None]:
        found = head | {"SPLIT": split, "BIAS": bias}
        tile = {"HEADS": 4, "LANES": 4, "DEPTH": 4, "STAGES": 1}
        yield paged_attention.paged_attention_kernel, found | tile, types, {"num_warps": 4}
        for lanes in (1, 4):
            tile = {"GROUP": 4, "LANES": lanes, "BG": 16, "STEP": 32, "STAGES": 1}
            yield paged_attention.shared_attention_kernel, found | tile, types, {"num_warps": 4}
    joined = {"D": 64, "BD": 64, "BS": 8, "PDL": True}
    yield paged_attention.join_splits_kernel, joined, types, {"num_warps": 1}
    row = {"N": 1024, "BN": 1024, "KEEP": False, "PDL": True}
    yield many_rows.bias_to_slots_kernel, row, {}, {"num_warps": 4}
    norm = {"K": 1024, "BK": 1024, "NORM": True, "PDL": True}
    yield many_rows.residual_norm_kernel, norm, {}, {"num_warps": 4}
    inner = {"N": 4096, "BLOCK": 2048, "ACTIVATION": "gelu", "PDL": True}
    yield many_rows.bias_act_kernel, inner, {}, {"num_warps": 8}


def _choice(few: bool) -> Iterator[Case]:
    """Choices of one text and of many, with blanks and without; drawing from all and from the best; beams."""
    yield greedy.argmax_kernel, {"CHUNK": 1024, "PDL": True}, _STATE, {}
    for rows, lanes, spans in ((1, 1, False), (4, 8, True)) if few else product((1, 32), (1, 4), (False, True)):
        sizes = {"BP": rows, "WP": lanes, "CP": 64 if lanes == 1 else 0, "SPANS": spans, "PDL": True}
        types = {} if lanes == 1 else {"parts": "*fp32", "firsts": "*i32"}
        yield greedy.append_kernel, sizes, _STATE | types, {}
    drawn, pieces = {"CP": 16, "HOT": True, "PDL": True}, {"PIECE": 128, "NP": 512}
    types = _STATE | {"tokens": "*i32"}
    for draws in (False, True):
        cut = {"CHUNK": 4096, "PIECE": 128, "DRAW": draws, "HOT": draws, "PDL": True}
        yield scores.parts_kernel, cut, types, {}
    yield scores.draw_kernel, {**drawn, "CHUNK": 1024}, types, {}
    yield scores.draw_best_kernel, {**drawn, **pieces, "KP": 64, "SHARE": True}, types, {}
    yield scores.best_kernel, {**pieces, "KP": 8, "CP": 16, "PDL": True}, types, {}
    beams_of = {"WP": 4, "KP": 8, "CP": 8, "EARLY": False, "GROWS": True, "BLOCK": 128, "PDL": True}
    yield beams.beams_kernel, beams_of, _STATE | {"length": "*fp64", "PENALTY": "i64"}, {}


def _small(step: dict[str, Any], count: int, around: dict[str, Any], few: bool) -> Iterator[Case]:
    """Products with weights of four and 8 bits, by every way."""
    for bits in (4, 8):
        ways = [("gemv", 8, 32 * bits, 16, bits), ("gemm", 32, 64, 16, 4)]
        ways += [("grouped_gemm", 16, 512, 8, 4)] if bits == 4 else []
        for kind, rows, columns, padded, warps in ways:
            cut = {
                "G": 128,
                "BITS": bits,
                "M": count,
                "MP": padded,
                "BN": rows,
                "BK": columns,
                "KIND": kind,
                "ASM": True,
            }
            types = dict(_SMALL[bits])
            if kind == "gemm" and bits == 8:
                types |= {name: "*i8" for name in types if name.endswith("matrix")}
            pdl = {**step, "PDL": kind != "gemm"}
            options = {"num_warps": warps, "num_stages": 1 if kind != "gemm" else 3}
            yield quantized.quantized_linear_act_residual_kernel, pdl | cut | around, types, options
            if bits == 8 or not few:  # it has the same products
                yield quantized.quantized_qkv_to_cache_kernel, pdl | cut, types, options


def compiled(kernel: Any, constants: dict[str, Any], types: dict[str, str], options: dict[str, int]) -> None:
    """Compile a kernel.

    Args:
        kernel: the kernel.
        constants: of its parameters, those that are constants.
        types: of the others, those that are unlike ``_TYPES``.
        options: warps and the like.
    """
    names = kernel.arg_names
    kinds = {name: "i32" if name.isupper() else "*bf16" for name in names} | _TYPES | types
    signature = {name: "constexpr" if name in constants else kinds[name] for name in names}
    # Pointers and strides are multiples of 16, as they are in use.
    even = [name for name in names if name not in constants and (kinds[name][0] == "*" or name.endswith("STRIDE"))]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in even},
    )
    pdl = {"launch_pdl": True} if constants.get("PDL") else {}
    compiler.compile(source, target=_TARGET, options={**options, **pdl})


def in_cuda() -> Iterator[tuple[str, Options]]:
    """Kernels in CUDA C++ and what they leave open, if their compiler is here (cuda-bindings, nvidia-cuda-nvrtc)."""
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return
    for hidden, bits, half in product((1024, 2048, 4096, 8192), (4, 8, 16), (0, 1)):
        cut = LaunchPlan(hidden, min(4 * hidden, 16384), 48, bits, 132, 232448)
        if cut.fits:
            yield "megakernel", (*cut.options, ("BFLOAT", half), ("ACTIVATION", half))


def main(few: bool) -> int:
    failed = 0
    tries: list[tuple[str, Callable[[], Any]]] = [
        (f"{kernel.__name__} {constants}", partial(compiled, kernel, constants, types, options))
        for kernel, constants, types, options in cases(few)
    ]
    tries += [(f"{folder} {options}", partial(image_of, folder, options, (9, 0))) for folder, options in in_cuda()]
    for name, work in tries:
        try:
            work()
            print("good", name)  # noqa: T201
        except Exception:  # noqa: BLE001 - the others are tried, too
            failed += 1
            print("FAILED", name, traceback.format_exc()[-1500:])  # noqa: T201
    return failed


if __name__ == "__main__":
    sys.exit(main(few="--few" in sys.argv))
