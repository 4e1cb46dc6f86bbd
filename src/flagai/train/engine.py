"""What carries a training: replicas on Accelerate, or one model that is sharded over all processes."""

import contextlib
import logging
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from torch import nn

from flagai.errors import ConfigError
from flagai.model.base_model import BaseModel
from flagai.train.needs import accelerate
from flagai.train.output import ADAPTER
from flagai.train.recipe import Recipe

logger = logging.getLogger(__name__)

_SHARDS = "shards"


class TrainingEngine:
    """Every process has the whole model, in any precision that Accelerate knows, with LoRA adapters or without."""

    def __init__(
        self,
        accelerator: Any,
        model: BaseModel,
        optimizer: torch.optim.Optimizer,
        *,
        base: str = "",
        layout: str = "flagai",
    ) -> None:
        self.accelerator, self.base, self.layout = accelerator, base, layout
        self.model, self.optimizer = self._prepared(model, optimizer)

    def _prepared(self, model: BaseModel, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        model, optimizer = self.accelerator.prepare(model, optimizer)
        return model, optimizer

    @property
    def bare(self) -> BaseModel:
        """The model itself."""
        return cast(BaseModel, self.accelerator.unwrap_model(self.model))

    def local_gradients(self) -> AbstractContextManager[None]:
        """In the body, gradients are added up in each process and not exchanged."""
        return cast("AbstractContextManager[None]", self.accelerator.no_sync(self.model))

    def precision(self) -> AbstractContextManager[None]:
        """In the body, the bare model computes in the precision of the training."""
        return cast("AbstractContextManager[None]", self.accelerator.autocast())

    def write(self, out: Path) -> None:
        """Write the folder of the model as it is now, an adapter merged, and alone beside it. All processes call it."""
        adapters = self.bare.adapter_names
        if adapters:
            self.bare.merge_adapter()
        state = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            self.bare.save_pretrained(out, state_dict=state, layout=self.layout)
        if adapters:
            self.bare.unmerge_adapter()
        if adapters and self.accelerator.is_main_process:
            self._write_adapter(adapters[0], out / ADAPTER)

    def _write_adapter(self, name: str, out: Path) -> None:
        _, odd = self.bare.trained_heads()
        if odd:
            logger.warning("No folder of the adapter is written: it cannot hold %s. The merged model has it.", odd[0])
            return
        self.bare.save_adapter(out, name, base=self.base)

    def save(self, folder: Path) -> None:
        """Write parameters, optimizer, loss scale and random numbers of a checkpoint. All processes call it."""
        # Not as safetensors: Accelerate would take q, k and v, cut from one tensor of a file, for one and keep only q.
        self.accelerator.save_state(str(folder), safe_serialization=False)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        self.accelerator.load_state(str(folder))
        # Random numbers again: where Accelerate cannot restore them, it says nothing and goes on.
        states = accelerate().utils.load(str(folder / f"random_states_{self.accelerator.process_index}.pkl"))
        random.setstate(states["random_state"])
        numpy.random.set_state(states["numpy_random_seed"])
        torch.set_rng_state(states["torch_manual_seed"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(states["torch_cuda_manual_seed"])


class ShardedEngine(TrainingEngine):
    """The processes share one model by FSDP2; Accelerate only starts them and keeps their random numbers."""

    def _prepared(self, model: BaseModel, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        if self.accelerator.mixed_precision == "fp16":
            raise ConfigError("Sharded models train in bf16 or float32: their gradients are not scaled for fp16.")
        return model, optimizer

    @contextlib.contextmanager
    def local_gradients(self) -> Iterator[None]:
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def precision(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()  # FSDP casts by itself

    def write(self, out: Path) -> None:
        self.bare.save_pretrained(out, layout=self.layout)

    def save(self, folder: Path) -> None:
        from torch.distributed.checkpoint.state_dict import get_state_dict
        from torch.distributed.checkpoint.state_dict_saver import save

        super().save(folder)
        weights, moments = get_state_dict(self.model, self.optimizer)
        save({"model": weights, "optimizer": moments}, checkpoint_id=folder / _SHARDS)

    def load(self, folder: Path) -> None:
        from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
        from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load

        super().load(folder)
        weights, moments = get_state_dict(self.model, self.optimizer)
        # Parameters that get no gradient (a pooler, in tagging) have no moments in the checkpoint.
        planner = DefaultLoadPlanner(allow_partial_load=True)
        load({"model": weights, "optimizer": moments}, checkpoint_id=folder / _SHARDS, planner=planner)
        set_state_dict(self.model, self.optimizer, model_state_dict=weights, optim_state_dict=moments)


def build_optimizer(model: BaseModel, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, with groups of its own for matrices, which decay, and for parameters that are new."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        new = any(fnmatchcase(name, pattern) for pattern in model.fresh)
        groups.setdefault((parameter.dim() > 1, new), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if matrices else 0.0,
            "factor": recipe.head_rate if new else 1.0,
        }
        for (matrices, new), parameters in groups.items()
    ]
    fused = all(parameter.is_cuda for parameter in trained.values())  # one kernel for all parameters
    return torch.optim.AdamW(settings, lr=recipe.learning_rate, fused=fused)
