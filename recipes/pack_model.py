"""Packs a trained model for shipping: weights in eight bits, in files that a repository can hold.

python recipes/pack_model.py MODEL_FOLDER OUT_FOLDER
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from flagai.checkpoint.reader import open_checkpoint
from flagai.checkpoint.save import write_quantized

_MOST = 19_000_000
_BESIDE = ("config.json", "vocab.txt", "tokenizer_config.json", "metrics.json", "log.jsonl")


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in _BESIDE:
        if (arguments.model / name).is_file():
            shutil.copyfile(arguments.model / name, arguments.out / name)
    checkpoint = open_checkpoint(arguments.model)
    tensors = {name: checkpoint.tensors(name)[0] for name in checkpoint}
    shards = split(tensors)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
        index = {"weight_map": {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}}
        (arguments.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        write_quantized(arguments.out / name, shard)
        print(name, (arguments.out / name).stat().st_size, "bytes")


def split(tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The fewest files of at most 19 million values."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(map(torch.numel, shards[-1].values())) + tensor.numel() > _MOST:
            shards.append({})
        shards[-1][name] = tensor
    return shards


if __name__ == "__main__":
    sys.exit(main())
