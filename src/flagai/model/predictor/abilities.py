"""Which model can do what: data, and the error that says so."""

from collections.abc import Mapping

from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import (
    BertForClsClassifier,
    BertForEmbedding,
    BertForMaskLM,
    BertForSeq2seq,
    BertForSequenceLabeling,
    BertForSequenceLabelingGP,
    BertModel,
)
from flagai.model.glm_model import GLMForSeq2Seq, GLMForSequenceClassification, GLMModel
from flagai.model.gpt2_model import GPT2Model
from flagai.model.t5_model import T5Model
from flagai.model.untrained import untrained

Classes = tuple[type[BaseModel], ...]

GLM_WRITERS: Classes = (GLMModel, GLMForSeq2Seq)
WRITERS: Classes = (*GLM_WRITERS, BertForSeq2seq, GPT2Model, T5Model)
CLASSIFIERS: Classes = (BertForClsClassifier, GLMForSequenceClassification)

# What a model must be for each method of the Predictor; "write" stands for all that write.
ABILITIES: Mapping[str, Classes] = {
    "write": WRITERS,
    "fill_blanks": (*GLM_WRITERS, BertForMaskLM, T5Model),
    "predict_masklm": (BertForMaskLM,),
    "predict_cls_classifier": (*CLASSIFIERS, *WRITERS),
    "predict_ner": (BertForSequenceLabeling, BertForSequenceLabelingGP),
    "predict_embedding": (BertModel, BertForEmbedding, *WRITERS),
}


def require(model: BaseModel, method: str, *, allow_untrained: bool = True) -> None:
    """Accept a model that can do what a method asks for.

    Args:
        model: the model.
        method: the Predictor's method.
        allow_untrained: whether a head that was randomly initialised and never trained will do.

    Raises:
        InputError: it cannot; the message says what it can do, and which classes can do this.
    """
    if isinstance(model, ABILITIES[method]):
        if not allow_untrained:
            _refuse_untrained(model)
        return
    able = [name for name, classes in ABILITIES.items() if isinstance(model, classes)]
    raise InputError(
        f"A {type(model).__name__} cannot do {method}; it can do {', '.join(able) or 'none of the predictions'}. "
        f"{method} needs one of {', '.join(cls.__name__ for cls in ABILITIES[method])}: "
        "load one with AutoLoader(task_name, model_name)."
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
