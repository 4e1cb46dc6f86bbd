"""Every layout in circulation, written with the tensors of a small GLM."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
# Divisible by 1 to 4, as the original's splitting tool demands.
GLM = {"vocab_size": 48, "hidden_size": 24, "num_attention_heads": 12}


def halves(state: State) -> list[State]:
    names = list(state)
    return [{name: state[name] for name in part} for part in (names[:7], names[7:])]


def with_index(folder: Path, files: dict[str, State], index: str, write: Callable[[State, Path], Any]) -> None:
    for name, part in files.items():
        write(part, folder / name)
    weight_map = {tensor: name for name, part in files.items() for tensor in part}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def shards(state: State, pattern: str) -> dict[str, State]:
    return {pattern.format(number): part for number, part in enumerate(halves(state), 1)}


def save_each(folder: Path, files: dict[str, Any], write: Callable[[Any, Path], Any] = torch.save) -> None:
    folder.mkdir(exist_ok=True)
    for name, part in files.items():
        write(part, folder / name)


def tagged(folder: Path, state: State, pointer: str, name: str = "mp_rank_00_model_states.pt", mark: str = "") -> None:
    save_each(folder / "150000", {name: {"module": state, "iteration": 7}})
    (folder / pointer).write_text(f"{mark}150000\n", encoding="utf-8")


# SwissArmyTransformer's names that differ from the original's.
SAT = {
    "word_embeddings.weight": "transformer.word_embeddings.weight",
    "transformer.block_position_embeddings.weight": (
        "mixins.block_position_embedding.block_position_embeddings.weight"
    ),
}
LAYOUTS: dict[str, Callable[[Path, State], Any]] = {
    "safetensors": lambda folder, state: save_file(state, folder / "model.safetensors"),
    "bin": lambda folder, state: torch.save(state, folder / "pytorch_model.bin"),
    "legacy bin": lambda folder, state: torch.save(
        state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
    ),
    "module": lambda folder, state: torch.save({"module": state, "lr": 0.1}, folder / "pytorch_model.bin"),
    "state_dict": lambda folder, state: torch.save({"state_dict": state}, folder / "pytorch_model.bin"),
    "parameters": lambda folder, state: torch.save(
        {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}, folder / "pytorch_model.bin"
    ),
    "safetensors shards": lambda folder, state: with_index(
        folder, shards(state, "model-0000{}-of-00002.safetensors"), "model.safetensors.index.json", save_file
    ),
    "bin shards": lambda folder, state: with_index(
        folder, shards(state, "pytorch_model-0000{}-of-00002.bin"), "pytorch_model.bin.index.json", torch.save
    ),
    "odd shard names": lambda folder, state: with_index(
        folder, shards(state, "part{}.safetensors"), "model.safetensors.index.json", save_file
    ),
    "safetensors shards without an index": lambda folder, state: save_each(
        folder, shards(state, "model-0000{}-of-00002.safetensors"), save_file
    ),
    "bin shards without an index": lambda folder, state: save_each(
        folder, shards(state, "pytorch_model-0000{}-of-00002.bin")
    ),
    "FlagAI's shards": lambda folder, state: save_each(
        folder, {f"pytorch_model-{number}.bin": part for number, part in enumerate(halves(state))}
    ),
    "both kinds of shards": lambda folder, state: (
        save_each(folder, {"pytorch_model-00001-of-00001.bin": {"old": torch.ones(1)}}),
        save_each(folder, shards(state, "model-0000{}-of-00002.safetensors"), save_file),
    ),
    "one part": lambda folder, state: save_each(folder, {"pytorch_model_00.bin": {"module": state}}),
    "DeepSpeed": lambda folder, state: tagged(folder, state, "latest"),
    "Megatron": lambda folder, state: tagged(folder, state, "latest_checkpointed_iteration.txt"),
    "FlagAI's trainer": lambda folder, state: tagged(
        folder, state, "latest_checkpointed_iteration.txt", "pytorch_model.bin"
    ),
    "a tag with a byte order mark": lambda folder, state: tagged(folder, state, "latest", mark="\ufeff"),
    "SwissArmyTransformer": lambda folder, state: torch.save(
        {"module": {SAT.get(name, name): tensor for name, tensor in state.items()}},
        folder / "mp_rank_00_model_states.pt",
    ),
    "GLM-2B's untrained head": lambda folder, state: torch.save(
        state
        | {f"{name}.weight": torch.ones(3, 3) for name in ("dense", "out_proj")}
        | {f"glm.{name}.bias": torch.ones(3) for name in ("dense", "out_proj")},
        folder / "pytorch_model.bin",
    ),
}


def part_of(name: str, tensor: torch.Tensor, rank: int, count: int) -> torch.Tensor:
    """What the original's splitting tool gives one rank."""
    if "query_key_value" in name:
        return torch.cat([third.chunk(count)[rank] for third in tensor.chunk(3)])
    if "word_embeddings" in name or "dense_h_to_4h" in name:
        return tensor.chunk(count)[rank]
    if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
        return tensor.chunk(count, 1)[rank].contiguous()
    return tensor


def parts(state: State, count: int) -> list[State]:
    return [{name: part_of(name, tensor, rank, count) for name, tensor in state.items()} for rank in range(count)]
