"""The reference cases of the later GLMs."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from flagai.auto_model.registry import find_class
from flagai.data.prompt import Prompt
from flagai.generation import Decoding
from flagai.model.opening import load_model

ROOT = Path(__file__).parent / "oracles"
# Cases whose weights are those of another one.
_WEIGHTS = {"glm-4-9b": "chatglm3-6b"}
FIRST = ("chatglm6b", "chatglm6b-int4", "chatglm6b-ptuning-projected")
LATER = ("chatglm3-6b", "glm-4-9b", "chatglm2-6b-ptuning", "native-glm", "native-glm4")
SOP, PAD = 154, 3  # of the first generation's cases


def case(name: str) -> dict[str, torch.Tensor]:
    """Inputs and outputs of the original, as ``<call>.<name>``."""
    return load_file(ROOT / name / "cases.safetensors")


def folder(name: str, into: Path) -> Path:
    """A copy of a case's folder, with weights."""
    shutil.copytree(ROOT / name, into, dirs_exist_ok=True)
    if name in _WEIGHTS:
        shutil.copy(ROOT / _WEIGHTS[name] / "model.safetensors", into)
    return into


def open_folder(path: Path, **options: Any) -> Any:
    """The model of a folder, of the class that its files name."""
    return load_model(lambda read: find_class(read.content, read.checkpoint), path.parent, path.name, **options)


@cache
@torch.inference_mode(False)
def model(name: str) -> Any:
    """A case's model in float32."""
    path = ROOT / name
    if name in _WEIGHTS:
        import tempfile

        path = folder(name, Path(tempfile.mkdtemp()) / name)
    return open_folder(path, dtype="float32")


def error(found: torch.Tensor, wanted: torch.Tensor, real: torch.Tensor | None = None) -> float:
    """The largest difference, at real tokens."""
    difference = (found - wanted).abs().detach()
    return float((difference if real is None else difference[real.bool()]).max())


def prompts(name: str, call: str, tensors: dict[str, torch.Tensor]) -> list[Prompt]:
    """A call's rows without padding, as prompts; of the first generation up to <sop>."""
    ids = tensors.get(f"{call}.input_ids", tensors["greedy.input_ids"])
    if name not in FIRST:
        real = tensors["greedy.attention_mask"].bool()
        return [Prompt(tuple(row[mask].tolist())) for row, mask in zip(ids, real, strict=True)]
    rows = [row[row != PAD].tolist()[:-1] for row in ids]
    return [Prompt(tuple(row), (next(row.index(mask) for mask in (151, 150) if mask in row),)) for row in rows]


def decoding(name: str, tensors: dict[str, torch.Tensor], call: str) -> Decoding:
    """How a call was decoded."""
    count = tensors[f"{call}.output_ids"].shape[1] - tensors["greedy.input_ids"].shape[1]
    ends = model(name).config["eos_token_id"]
    first = {"start_id": SOP, "no_repeat_ngram_size": 1} if name in FIRST else {}
    return Decoding(
        max_new_tokens=count,
        stop_token_ids=tuple(ends if isinstance(ends, list) else [ends]),
        num_beams=3 if call == "beam" else 1,
        **first,
    )


def answers(name: str, tensors: dict[str, torch.Tensor], call: str) -> list[tuple[int, ...]]:
    """What the original wrote, up to its first end."""
    ends = decoding(name, tensors, call).stop_token_ids
    rows = tensors[f"{call}.output_ids"][:, tensors["greedy.input_ids"].shape[1] :].tolist()
    return [tuple(row[: next((place for place, token in enumerate(row) if token in ends), len(row))]) for row in rows]
