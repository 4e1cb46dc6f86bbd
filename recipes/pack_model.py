"""Packs a trained model for shipping: weights in eight bits, in files that a repository can hold.

python recipes/pack_model.py MODEL_FOLDER OUT_FOLDER
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from flagai.checkpoint.quantised import write_quantised
from flagai.checkpoint.reader import open_checkpoint

_BESIDE = ("config.json", "vocab.txt", "tokenizer_config.json", "metrics.json", "log.jsonl")


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--half", action="store_true", help="float16 instead of eight bits")
    parser.add_argument("--drop", nargs="*", default=[], help="leave out tensors whose names begin so")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in _BESIDE:
        if (arguments.model / name).is_file():
            shutil.copyfile(arguments.model / name, arguments.out / name)
    checkpoint = open_checkpoint(arguments.model)
    dropped = tuple(arguments.drop)
    tensors = {name: checkpoint.tensors(name)[0] for name in checkpoint if not (dropped and name.startswith(dropped))}
    path = arguments.out / "model.safetensors"
    if arguments.half:
        from safetensors.torch import save_file

        save_file({name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}, path)
    else:
        write_quantised(path, tensors)
    values = sum(tensor.numel() for tensor in tensors.values())
    print(json.dumps({"values": values, "bytes": path.stat().st_size}))


if __name__ == "__main__":
    sys.exit(main())
