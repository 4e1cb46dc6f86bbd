"""GLM-10b with weights of 8 and 4 bits, beside bfloat16 in the same process; and its products one by one."""

import time
from typing import Any

import torch

from benchmarks._decode_common import HALF, logits_difference, made, noted, prompt, speeds
from benchmarks._decode_kernels import replayed
from flagai.generation import Decoding, generate
from flagai.kernels.decode.quantized_ops import kernel_config, quantized_linear_act_residual
from flagai.model.glm_model import GLMModel
from flagai.model.layer.quantized_embedding import QuantizedEmbedding
from flagai.model.layer.quantized_linear import BITS, QuantizedLinear
from flagai.model.quantization import quantize

GLM_10B = {
    "num_layers": 48, "vocab_size": 50048, "hidden_size": 4096, "num_attention_heads": 64, "max_sequence_length": 1024,
}  # fmt: skip
# name: (outputs, inputs)
SHAPES: dict[str, tuple[int, int]] = {
    "qkv": (12288, 4096), "out": (4096, 4096), "up": (16384, 4096), "down": (4096, 16384),
}  # fmt: skip
_BYTES = 1 << 30  # of different matrices, so that no cache serves them


def small(how: str, options: Any) -> dict[str, Any]:
    """A step in bfloat16 and with quantized weights, how close its logits are, and where its time goes."""
    found: dict[str, Any] = {}
    model, text = made(GLMModel, GLM_10B), [prompt(32, 50000)]
    batch = [prompt(32, 50000, seed) for seed in range(8)]
    work: dict[str, Any] = {
        "greedy": lambda: speeds(model, text, 32, 160),
        "beams 4": lambda: speeds(model, text, 32, 96, rounds=1, num_beams=4),
        "batch 8": lambda: speeds(model, batch, 32, 96, rounds=1),
    }
    if options.quick:
        del work["batch 8"]
    found["bfloat16, GB"] = _gigabytes(model)
    for name, measure in work.items():
        noted(found, f"bfloat16, {name}", measure)
    start = time.perf_counter()
    quantize(model, how)
    torch.cuda.synchronize()
    found["seconds to quantize"] = round(time.perf_counter() - start, 2)
    if options.quick:
        del work["beams 4"]
    for way in (how, f"{how}-all"):
        if way != how:
            model.embed.token = QuantizedEmbedding.of(model.embed.token)
        found[f"{way}, GB"] = _gigabytes(model)
        for name, measure in work.items():
            before, after = f"bfloat16, {name}", f"{way}, {name}"
            noted(found, after, measure)
            noted(found, f"ratio, {after}", lambda before=before, after=after: _ratio(found[before], found[after]))
        noted(found, f"{way}, microseconds in a step", lambda: kernels_of_a_step(model, text))
    noted(found, "logits beside the same weights in float32", lambda: _closeness(how))
    return found


def _gigabytes(model: Any) -> float:
    """Of the weights, all of which a step reads but for rows of the position tables."""
    return round(sum(parameter.nbytes for parameter in model.parameters()) / 1e9, 3)


def _ratio(before: dict[str, Any], after: dict[str, Any]) -> float:
    return round(before["ms a step"] / after["ms a step"], 2)


def _closeness(how: str) -> dict[str, float]:
    config = {**GLM_10B, "num_layers": 4, "vocab_size": 5000}
    model = made(GLMModel, config)
    quantize(model, how)
    return logits_difference(model, prompt(11, 5000))


def kernels_of_a_step(model: Any, text: Any) -> list[str]:
    """Calls and microseconds in a replayed step, and microseconds each: the difference of two lengths."""
    totals: list[dict[str, tuple[int, float]]] = []
    for count in (20, 60):
        decoding = Decoding(max_new_tokens=count)
        generate(model, text, decoding)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            generate(model, text, decoding)
            torch.cuda.synchronize()
        totals.append({entry.key: (entry.count, entry.self_device_time_total) for entry in seen.key_averages()})
    found = []
    for name, (calls, total) in totals[1].items():
        before = totals[0].get(name, (0, 0.0))
        found.append((round((total - before[1]) / 40, 1), round((calls - before[0]) / 40, 1), name[:90]))
    return [f"{us} us, {calls} calls: {name}" for us, calls, name in sorted(found, reverse=True) if us > 0.5][:40]


def small_kernels(options: Any) -> list[dict[str, Any]]:
    """Every product with the way that the library takes: microseconds, and bandwidth of the quantized weights."""
    found = []
    for how, bits in BITS.items():
        for name, (outputs, inputs) in SHAPES.items():
            layers = [
                layer(outputs, inputs, bits, seed) for seed in range(max(3, _BYTES * 8 // (bits * outputs * inputs)))
            ]
            size = layers[0].weight.nbytes + layers[0].weight_scale.nbytes
            for rows in (1, 4, 8):
                entry: dict[str, Any] = {"bits": how, "product": name, "rows": rows}
                noted(entry, "found", lambda rows=rows, layers=layers, size=size: _timed(layers, rows, size))
                found.append(entry)
            del layers
            torch.cuda.empty_cache()
    return found


@torch.inference_mode()
def _timed(layers: list[QuantizedLinear], rows: int, size: int) -> dict[str, Any]:
    x = torch.randn(rows, layers[0].in_features, device="cuda", dtype=HALF)
    seconds = replayed(lambda: [quantized_linear_act_residual(x, each) for each in layers] and None) / len(layers)
    return {
        "way": str(kernel_config(layers[0], rows)),
        "us": round(1e6 * seconds, 2),
        "TB/s": round(size / seconds / 1e12, 3),
    }


def layer(outputs: int, inputs: int, bits: int, seed: int = 0) -> QuantizedLinear:
    """A layer with random numbers of a sensible size."""
    with torch.device("cuda"):
        made = QuantizedLinear(inputs, outputs, bits, bias=True, dtype=HALF)
        torch.manual_seed(seed)
        if bits == 8:
            made.weight.data.random_(-127, 128)
            made.weight_scale.data.uniform_(1e-4, 3e-4)
        else:
            made.weight.data.random_(-(2**31), 2**31)
            step = torch.empty(outputs, inputs // made.group).uniform_(2e-3, 4e-3)
            pairs = torch.stack([step, -7.5 * step], 2).bfloat16()
            made.weight_scale.data = pairs.view(torch.int32).flatten(1)
        made.bias.data.normal_(std=0.02)  # type: ignore[union-attr]
    return made
