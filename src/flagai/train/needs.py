"""Libraries that only training needs, with an error that says how to get them."""

import importlib
from typing import Any

from flagai.absent import install_hint
from flagai.errors import ConfigError


def accelerate() -> Any:
    """Hugging Face Accelerate, or a ConfigError."""
    return _library("accelerate", "Training", "train")


def peft() -> Any:
    """Hugging Face PEFT, or a ConfigError."""
    return _library("peft", "LoRA", "lora")


def _library(name: str, what: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{what} needs {name} ({error}). {install_hint(extra)}") from error
