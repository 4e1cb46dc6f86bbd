"""Configurations, layers, blocks and models."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.model.base_model import BaseModel as BaseModel
    from flagai.model.bert_model import BertForClsClassifier as BertForClsClassifier
    from flagai.model.bert_model import BertForEmbedding as BertForEmbedding
    from flagai.model.bert_model import BertForMaskLM as BertForMaskLM
    from flagai.model.bert_model import BertForSeq2seq as BertForSeq2seq
    from flagai.model.bert_model import BertForSequenceLabeling as BertForSequenceLabeling
    from flagai.model.bert_model import BertForSequenceLabelingCRF as BertForSequenceLabelingCRF
    from flagai.model.bert_model import BertForSequenceLabelingGP as BertForSequenceLabelingGP
    from flagai.model.bert_model import BertModel as BertModel
    from flagai.model.chatglm2_model import ChatGLM2ForSequenceClassification as ChatGLM2ForSequenceClassification
    from flagai.model.chatglm2_model import ChatGLM2Model as ChatGLM2Model
    from flagai.model.chatglm_model import ChatGLMModel as ChatGLMModel
    from flagai.model.glm_model import GLMForMultiTokenCloze as GLMForMultiTokenCloze
    from flagai.model.glm_model import GLMForMultiTokenClozeFast as GLMForMultiTokenClozeFast
    from flagai.model.glm_model import GLMForSeq2Seq as GLMForSeq2Seq
    from flagai.model.glm_model import GLMForSequenceClassification as GLMForSequenceClassification
    from flagai.model.glm_model import GLMForSingleTokenCloze as GLMForSingleTokenCloze
    from flagai.model.glm_model import GLMModel as GLMModel
    from flagai.model.gpt2_model import GPT2Model as GPT2Model
    from flagai.model.t5_model import T5Model as T5Model
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "flagai.model.base_model": "BaseModel",
            "flagai.model.bert_model": (
                "BertForClsClassifier BertForEmbedding BertForMaskLM BertForSeq2seq "
                "BertForSequenceLabeling BertForSequenceLabelingCRF BertForSequenceLabelingGP BertModel"
            ),
            "flagai.model.chatglm2_model": "ChatGLM2ForSequenceClassification ChatGLM2Model",
            "flagai.model.chatglm_model": "ChatGLMModel",
            "flagai.model.glm_model": (
                "GLMForMultiTokenCloze GLMForMultiTokenClozeFast GLMForSeq2Seq "
                "GLMForSequenceClassification GLMForSingleTokenCloze GLMModel"
            ),
            "flagai.model.gpt2_model": "GPT2Model",
            "flagai.model.t5_model": "T5Model",
        },
    )
