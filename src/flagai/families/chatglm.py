"""ChatGLM-6B and GLM-130B: the answer fills a blank at the end of the text.

Source: Zeng et al. 2022, "GLM-130B: An Open Bilingual Pre-trained Model".
"""

from typing import Any

import torch

from flagai.catalog.card import MODEL_TYPES
from flagai.data.prepare import chatglm
from flagai.families.family import DecodingProtocol, Family, ModelClass, ModelInputs, TextProtocol, named_tokens


def _arguments(model: Any, inputs: ModelInputs) -> dict[str, Any]:
    positions = inputs.positions
    if not model.config.position_encoding_2d:  # an answer to [gMASK], which ends the prompt, runs on behind it
        positions = torch.stack([positions.sum(1), positions[:, 1]], dim=1)
    return {"input_ids": inputs.ids, "position_ids": positions}


_ANSWER = TextProtocol(chatglm.blank_prompts, stop=named_tokens("eop"), start=named_tokens("sop"), configured_ends=True)

FAMILY = Family(
    name="chatglm",
    classes=(
        ModelClass(
            "ChatGLMModel",
            ("lm", "writing"),
            ("write",),
            ("ChatGLMForConditionalGeneration",),
        ),
    ),
    model_types=MODEL_TYPES["chatglm"],
    signature=("inner_hidden_size", "position_encoding_2d"),
    text=lambda _name, _masked: _ANSWER,
    decoding=DecodingProtocol(_arguments, starts=True, spans=True, prefix=True),
    span_decoding=DecodingProtocol(_arguments, starts=True, spans=True, prefix=True),
    command_rows=True,
)
