"""One process beside several: the same model, batch, outputs and gradients."""

from pathlib import Path
from typing import Any

import torch

from flagai.parallel import dtensor
from tests import tiny

# Sizes that two and four ranks can share; vocabularies stay odd.
SHARED: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_attention_heads": 4},
    "glm": {"hidden_size": 16, "num_attention_heads": 4},
    "gpt2": {"n_embd": 16, "n_head": 4},
    "t5": {"num_heads": 4},
    "chatglm": {"num_attention_heads": 4},
    "chatglm2": {},  # four heads of queries in two groups: with four ranks, two share each
}


def sizes(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A variant of a class in sizes that ranks can share."""
    return SHARED[tiny.CLASSES[name].config_class.family] | changes


def folder(root: Path, name: str, changes: dict[str, Any]) -> Path:
    """Where a variant is kept."""
    return root / f"{name}-{'-'.join(f'{key}={value}' for key, value in changes.items())}"


def make(root: Path, entries: list[tuple[str, dict[str, Any]]]) -> None:
    """Save models, and beside each what one process computes with it."""
    for name, changes in entries:
        target = folder(root, name, changes)
        model = tiny.build(name, **sizes(name, changes))
        model.save_pretrained(target)
        torch.save(computed(model, name, changes), target / "expected")


def computed(model: Any, name: str, changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Logits, loss and, where there is a loss, gradients, as whole tensors."""
    output = model(**tiny.batch(name, **changes))
    found = {
        key: dtensor.full_tensor(output[key].detach()) for key in ("logits", "hidden_states", "loss") if key in output
    }
    if "loss" in output:
        output["loss"].backward()
        found |= {
            f"gradient of {name}": dtensor.full_tensor(parameter.grad)
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
    return found


def compare(got: dict[str, torch.Tensor], target: Path, *, what: str) -> None:
    """Compare with what one process computed: outputs to 1e-5, gradients to 1e-4."""
    expected = torch.load(target / "expected")
    assert got.keys() == expected.keys(), f"{what}: {sorted(got.keys() ^ expected.keys())}"
    for key, value in expected.items():
        limit = 1e-4 if key.startswith("gradient") else 1e-5
        assert got[key].shape == value.shape, f"{what}: {key}: {got[key].shape} instead of {value.shape}"
        error = float(((got[key] - value).abs() / (1 + value.abs())).max())
        assert error <= limit, f"{what}: {key} is off by {error:.2g}"
