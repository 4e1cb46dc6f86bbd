"""Whether a model can do what a method of the Predictor asks for, and what the outputs of its head mean."""

import torch

from flagai.errors import InputError
from flagai.families.family import Family, ModelClass, all_families, family_and_row
from flagai.model.base_model import BaseModel
from flagai.model.layer.adapted import replaces
from flagai.model.untrained import untrained

_METHODS = ("write", "fill_blanks", "predict_masklm", "predict_cls_classifier", "predict_ner", "predict_embedding")


def require(model: BaseModel, method: str, *, allow_untrained: bool = True) -> tuple[Family, ModelClass]:
    """Accept a model that can do what a method asks for.

    Args:
        model: the model.
        method: the Predictor's method; "write" stands for all that generate text.
        allow_untrained: whether a head that was randomly initialized and never trained will do.

    Raises:
        InputError: it cannot; the message says what it can do, and which classes can do this.
    """
    family, row = family_and_row(model)
    can = () if row is None else row.methods
    if family is not None and row is not None and method in can:
        # GLM's prompt encoder, which most uses leave aside, is no head.
        new = (name for name in untrained(model) if "prompt" not in name and not replaces(model, name))
        heads = sorted({name.rpartition(".")[0] for name in new})
        if heads and not allow_untrained:
            raise InputError(
                f"The head of this {type(model).__name__} is randomly initialized: its checkpoint has no "
                f"{', '.join(heads)}, so its answers would be chance. "
                "Load a model that was trained for the task, or train this one (flagai finetune). In Python, "
                "Predictor(model, tokenizer, allow_untrained=True) answers all the same."
            )
        return family, row
    able = [each.name for kind in all_families() for each in kind.classes if method in each.methods]
    raise InputError(
        f"A {type(model).__name__} cannot do {method}; it can do "
        f"{', '.join(name for name in _METHODS if name in can) or 'none of the predictions'}. "
        f"{method} needs one of {', '.join(able)}: load one with AutoLoader(task_name, model_name)."
    )


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
