"""ChatGLM2, ChatGLM3, CodeGeeX2, GLM-4 and GLM-4-0414: texts are continued behind [gMASK] <sop>.

Source: Zeng et al. 2024, "ChatGLM: A Family of Large Language Models from GLM-130B to GLM-4 All Tools".
"""

from typing import Any

from flagai.catalog.card import MODEL_TYPES
from flagai.data.prepare import chatglm
from flagai.families.family import DecodingProtocol, Family, ModelClass, ModelInputs, TextProtocol, named_tokens


def _arguments(_: Any, inputs: ModelInputs) -> dict[str, Any]:
    return {"input_ids": inputs.ids, "position_ids": inputs.positions[:, 0]}


_CONTINUATION = TextProtocol(chatglm.prompts, stop=named_tokens("eos"), configured_ends=True)
_NAMES = ("ChatGLMModel", "ChatGLMForConditionalGeneration", "GlmForCausalLM", "Glm4ForCausalLM")
_CLASSIFIERS = (
    "ChatGLMForSequenceClassification",
    "GlmForSequenceClassification",
    "Glm4ForSequenceClassification",
)

FAMILY = Family(
    name="chatglm2",
    classes=(
        ModelClass("ChatGLM2Model", ("lm", "writing"), ("write",), _NAMES),
        ModelClass(
            "ChatGLM2ForSequenceClassification",
            ("classification", "semantic-matching"),
            ("predict_cls_classifier",),
            architectures=_CLASSIFIERS,
            head="classifier_head.weight",
        ),
    ),
    model_types=MODEL_TYPES["chatglm2"],
    signature=("padded_vocab_size", "ffn_hidden_size"),
    text=lambda _name, _masked: _CONTINUATION,
    decoding=DecodingProtocol(_arguments),
    class_rows=chatglm.classification_rows,
    class_batch=chatglm.classification_batch,
    command_rows=True,
)
