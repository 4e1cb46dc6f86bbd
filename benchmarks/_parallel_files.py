"""Random checkpoints for parallel.py, written fast: numbers from the device, a thread a file, long writes, no fsync."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

_FILE = 5_000_000_000
_WRITE = 64 << 20


def write(task: dict[str, Any]) -> None:
    """Write a checkpoint in bfloat16 as transformers shards it.

    Args:
        task: ``system``, ``folder``, ``config``, ``device``.
    """
    folder, device = Path(task["folder"]), torch.device(task["device"])
    folder.mkdir(parents=True, exist_ok=True)
    groups = _groups(_shapes(task, folder))
    names = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    weight_map = {name: file for file, group in zip(names, groups, strict=True) for name in group}
    index = {"metadata": {"total_size": sum(map(_size, groups))}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(lambda pair: _write_file(folder / pair[0], pair[1], device), zip(names, groups, strict=True)))


def _shapes(task: dict[str, Any], folder: Path) -> dict[str, list[int]]:
    """The tensors of a system's checkpoint; its configuration is written."""
    if task["system"] == "flagai":
        from flagai.checkpoint.save import build
        from flagai.model.glm_model import GLMConfig, GLMModel

        (folder / "config.json").write_text(json.dumps(task["config"]), encoding="utf-8")
        plan = GLMModel.on_meta(GLMConfig.from_dict(task["config"]))._plan_tensors("huggingface")
        return {name: list(build(sources).shape) for name, sources in plan.items()}
    import transformers

    config = transformers.LlamaConfig(**task["config"], dtype="bfloat16", architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    with torch.device("meta"):
        peer = transformers.LlamaForCausalLM(config)
    return {name: list(tensor.shape) for name, tensor in peer.state_dict().items() if name != "lm_head.weight"}


def _groups(shapes: dict[str, list[int]]) -> list[dict[str, list[int]]]:
    groups: list[dict[str, list[int]]] = [{}]
    for name, shape in shapes.items():
        if groups[-1] and _size(groups[-1]) + _size({name: shape}) > _FILE:
            groups.append({})
        groups[-1][name] = shape
    return groups


def _size(group: dict[str, list[int]]) -> int:
    return sum(2 * torch.Size(shape).numel() for shape in group.values())


def _write_file(path: Path, group: dict[str, list[int]], device: torch.device) -> None:
    values = torch.empty(_size(group) // 2, dtype=torch.bfloat16, device=device).normal_(std=0.02)
    header, begin = {}, 0
    for name, shape in group.items():
        end = begin + _size({name: shape})
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        if "norm" in name and name.endswith("weight"):
            values[begin // 2 : end // 2] += 1
        begin = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    raw = values.view(torch.uint8)
    buffer = torch.empty(min(_WRITE, raw.numel()), dtype=torch.uint8, pin_memory=device.type == "cuda")
    with path.open("wb", buffering=0) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for begin in range(0, raw.numel(), _WRITE):
            part = raw[begin : begin + _WRITE]
            buffer[: part.numel()].copy_(part)
            done, view = 0, memoryview(buffer.numpy())[: part.numel()]
            while done < len(view):
                done += file.write(view[done:])


if __name__ == "__main__":
    for given in json.loads(sys.argv[1]):
        write(given)
