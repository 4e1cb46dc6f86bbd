"""Whether a model can do what a method of the Predictor asks for, and the error if it cannot."""

from flagai.errors import InputError
from flagai.families.family import Family, ModelClass, all_families, family_and_row
from flagai.model.base_model import BaseModel
from flagai.model.untrained import untrained

_METHODS = ("write", "fill_blanks", "predict_masklm", "predict_cls_classifier", "predict_ner", "predict_embedding")


def require(model: BaseModel, method: str, *, allow_untrained: bool = True) -> tuple[Family, ModelClass]:
    """Accept a model that can do what a method asks for.

    Args:
        model: the model.
        method: the Predictor's method; "write" stands for all that generate text.
        allow_untrained: whether a head that was randomly initialised and never trained will do.

    Returns:
        The model's family, and the row of its class.

    Raises:
        InputError: it cannot; the message says what it can do, and which classes can do this.
    """
    family, row = family_and_row(model)
    can = () if row is None else row.methods
    if family is not None and row is not None and method in can:
        if not allow_untrained:
            _refuse_untrained(model)
        return family, row
    able = [each.name for kind in all_families() for each in kind.classes if method in each.methods]
    raise InputError(
        f"A {type(model).__name__} cannot do {method}; it can do "
        f"{', '.join(name for name in _METHODS if name in can) or 'none of the predictions'}. "
        f"{method} needs one of {', '.join(able)}: load one with AutoLoader(task_name, model_name)."
    )


def _refuse_untrained(model: BaseModel) -> None:
    # GLM's prompt encoder, which most uses leave aside, is no head.
    names = [name for name in untrained(model) if "prompt" not in name]
    if names:
        raise InputError(
            f"The head of this {type(model).__name__} is randomly initialised: its checkpoint has no "
            f"{', '.join(sorted({name.rpartition('.')[0] for name in names}))}, so its answers would be chance. "
            "Load a model that was trained for the task, or train this one (flagai finetune). In Python, "
            "Predictor(model, tokenizer, allow_untrained=True) answers all the same."
        )
