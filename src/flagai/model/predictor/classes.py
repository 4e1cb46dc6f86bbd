"""What the outputs of a classifier's head mean: one class of several, each class by itself, or numbers."""

import torch

from flagai.errors import InputError
from flagai.model.base_model import BaseModel


def names_one_class(model: BaseModel) -> bool:
    """Whether a model's answer is one class of several; a language model's always is."""
    if not model.needs_classes:
        return True
    several = model.config.get("class_num") != 1
    return several and model.config.get("problem_type") in (None, "single_label_classification")


def require_one_class(model: BaseModel) -> None:
    """Accept a model whose answer is one class.

    Raises:
        InputError: its outputs are scores that do not exclude each other, or no classes.
    """
    if not names_one_class(model):
        config = model.config
        raise InputError(
            f"The head of this {type(model).__name__} has no classes that exclude each other (class_num "
            f"{config.get('class_num')}, problem_type {config.get('problem_type')}). Take its scores: "
            "class_probabilities(texts)."
        )


def probabilities(model: BaseModel, logits: torch.Tensor) -> torch.Tensor:
    """Probabilities from outputs: softmax; sigmoid of one output, and of classes that do not exclude each other.

    The outputs of a regression stay as they are.

    Shape:
        [N, classes] -> [N, classes]
    """
    if names_one_class(model):
        return logits.softmax(-1)
    return logits if model.config.get("problem_type") == "regression" else logits.sigmoid()
