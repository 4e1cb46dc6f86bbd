"""What training needs: gradients everywhere, less memory on request, half types, files that stay as they are."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny

FAMILIES = ["BertForMaskLM", "GLMForSeq2Seq", "GPT2Model", "T5Model"]


def loss_of(model: Any, name: str, **changes: Any) -> torch.Tensor:
    """The model's own loss, or for models without one a random projection of all that they compute."""
    output = model(**tiny.batch(name, **changes))
    if "loss" in output:
        return output["loss"]
    computed = [output[key] for key in ("logits", "pooled") if key in output]
    return sum((tensor * torch.linspace(-1, 1, tensor.numel()).view(tensor.shape)).sum() for tensor in computed)


def unread(name: str, arguments: dict[str, Any]) -> tuple[str, ...]:
    """Beginnings of the names of parameters that this class with these arguments has no use for."""
    pooled = ("BertModel", "BertForClsClassifier", "BertForEmbedding")
    pooler = () if name in pooled else ("model.pooler.",)
    prompt = () if "prompt_pos" in arguments else ("prompt.", "model.prompt.")
    return (*pooler, *prompt)


@pytest.mark.parametrize(("name", "changes"), tiny.EVERY, ids=tiny.label)
def test_gradients_reach_every_parameter(name: str, changes: dict[str, Any]) -> None:
    model = tiny.build(name, **changes).train()
    loss_of(model, name, **changes).backward()
    idle = unread(name, tiny.batch(name, **changes))
    lost = [key for key, value in model.named_parameters() if value.grad is None and not key.startswith(idle)]
    assert not lost
    # Softmax does not notice what the keys' bias adds to all scores of a query.
    zero = [key for key, value in model.named_parameters() if value.grad is not None and value.grad.abs().max() < 1e-7]
    assert all(key.endswith("attention.k.bias") for key in zero), zero


@contextmanager
def saved_bytes() -> Iterator[dict[str, int]]:
    """Count the bytes that autograd keeps for the backward pass; parameters and views of a tensor count once."""
    seen: set[int] = set()
    total = {"bytes": 0}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if not isinstance(tensor, nn.Parameter) and pointer not in seen:
            seen.add(pointer)
            total["bytes"] += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


LAYERS = {"bert": "num_hidden_layers", "glm": "num_layers", "gpt2": "n_layer", "t5": "num_layers"}


@pytest.mark.parametrize(
    ("name", "group"), [*((name, {}) for name in FAMILIES), (FAMILIES[1], {"checkpoint_num_layers": 2})]
)
def test_recomputed_activations(name: str, group: dict[str, int]) -> None:
    """The same loss and gradients, dropout included, from much less memory."""
    family = tiny.CLASSES[name].config_class.family
    deep = {LAYERS[family]: 5, **({"spell_length": None} if family == "glm" else {})}
    kept, loss, gradients = [], [], []
    for extra in ({}, {"checkpoint_activations": True, **group}):
        model = tiny.build(name, **deep, **extra).train()
        torch.manual_seed(1)
        with saved_bytes() as counted:
            value = loss_of(model, name, **deep)
        value.backward()
        kept.append(counted["bytes"])
        loss.append(value.detach())
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters() if "pooler" not in key})
    torch.testing.assert_close(loss[1], loss[0], atol=0, rtol=0)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)
    assert kept[1] < kept[0] / 3


def test_larger_groups_keep_less() -> None:
    kept = []
    for group in (1, 2):
        model = tiny.build("GLMForSeq2Seq", num_layers=6, checkpoint_activations=True, checkpoint_num_layers=group)
        with saved_bytes() as counted:
            loss_of(model, "GLMForSeq2Seq")
        kept.append(counted["bytes"])
    assert kept[1] < kept[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2)], ids=str)
@pytest.mark.parametrize("name", tiny.CLASSES)
def test_half_types_agree_with_float32(name: str, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    tiny.build(name).save_pretrained(tmp_path)
    full = tiny.CLASSES[name].from_pretrained(tmp_path)
    half = tiny.CLASSES[name].from_pretrained(tmp_path, dtype=dtype)
    kinds = {key: value.dtype for key, value in half.named_parameters()}
    wide = {key for key, kind in kinds.items() if kind is not dtype}
    assert all(key.endswith("feed_forward.down.weight") and name == "T5Model" for key in wide)
    with torch.no_grad():
        wanted, found = full(**tiny.batch(name))["logits"], half(**tiny.batch(name))["logits"].float()
    ordinary = wanted.abs() < 1e6  # the pointer's masked spans are far below
    assert found.isfinite().all()
    assert (found - wanted)[ordinary].abs().max() < tolerance * wanted[ordinary].abs().max()


def overflowing(**changes: Any) -> Any:
    """A T5 whose feed-forward layers give more than float16 can hold, as those of the published T5s do."""
    model = tiny.build("T5Model", **changes)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("feed_forward.down.weight"):
                value.mul_(6e4 / value.abs().max())
    return model


@torch.no_grad()
def largest_feed_forward_output(model: Any) -> float:
    outputs: list[float] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: outputs.append(float(output.abs().max())))
        for key, module in model.named_modules()
        if key.endswith("feed_forward")
    ]
    model(**tiny.batch("T5Model"))
    for hook in hooks:
        hook.remove()
    return max(outputs)


def load_half(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    return type(model).from_pretrain(folder, dtype=torch.float16)


@pytest.mark.parametrize("changes", [{}, tiny.GATED], ids=["relu", "gated"])
@pytest.mark.parametrize(
    "convert", [load_half, lambda model, _: model.half(), lambda model, _: model.to(torch.float16)]
)
@torch.no_grad()
def test_t5_does_not_overflow_in_float16(convert: Callable[..., Any], changes: dict[str, Any], tmp_path: Path) -> None:
    model = overflowing(**changes)
    assert largest_feed_forward_output(model) > torch.finfo(torch.float16).max
    wanted = model(**tiny.batch("T5Model"))
    half = convert(model, tmp_path)
    assert half.embed.token.weight.dtype is torch.float16
    found = half(**tiny.batch("T5Model"))
    for key in ("logits", "hidden_states", "encoder_last_hidden_state", "loss"):
        assert found[key].isfinite().all()
        assert (found[key].float() - wanted[key]).abs().max() < 2e-2 * wanted[key].abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_training_a_mapped_model_leaves_its_file_alone(name: str, tmp_path: Path) -> None:
    tiny.build(name).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    digest, modified = hashlib.sha256(file.read_bytes()).digest(), file.stat().st_mtime_ns
    model = tiny.CLASSES[name].from_pretrained(tmp_path).train()
    untouched = tiny.CLASSES[name].from_pretrained(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = loss_of(untouched, name).detach()
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model, name).backward()
        optimizer.step()
    assert loss_of(model.eval(), name) < before
    assert loss_of(untouched, name) == before  # another model in the same process, with views of the same file
    assert (hashlib.sha256(file.read_bytes()).digest(), file.stat().st_mtime_ns) == (digest, modified)
    assert loss_of(tiny.CLASSES[name].from_pretrained(tmp_path), name) == before
