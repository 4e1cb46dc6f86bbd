"""Models with random adapters."""

from typing import Any

import torch


@torch.no_grad()
def with_adapters(model: Any, *names: str, std: float = 0.8) -> Any:
    """The model with random adapters, of which none is active; a tiny model answers alike unless they are large."""
    for seed, name in enumerate(names, 1):
        model.add_adapter(name, 2, targets=("q", "v", "down"))
        torch.manual_seed(seed)
        for key, parameter in model.named_parameters():
            if key.endswith(f"changes.{seed - 1}.b"):
                parameter.normal_(std=std)
    model.set_adapter("base")
    return model.requires_grad_(requires_grad=False)
