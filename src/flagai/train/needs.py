"""Libraries that only training needs, with an error that says how to get them."""

import importlib
from typing import Any

from flagai.absent import install_hint
from flagai.errors import ConfigError


def accelerate() -> Any:
    """Hugging Face Accelerate, or a ConfigError."""
    try:
        return importlib.import_module("accelerate")
    except ImportError as error:
        raise ConfigError(f"Training needs accelerate ({error}). {install_hint('train')}") from error
