"""The bricks: every layer from which blocks and models are built."""

from flagai.model.layer.activation import activation
from flagai.model.layer.attention import Attention, CrossAttention
from flagai.model.layer.cache import KVCache
from flagai.model.layer.crf import CRF
from flagai.model.layer.embedding import CheckedEmbedding, Embeddings
from flagai.model.layer.feed_forward import FeedForward, GatedFeedForward
from flagai.model.layer.global_pointer import GlobalPointer
from flagai.model.layer.head import MaskLMHead, Pooler
from flagai.model.layer.linear import Linear
from flagai.model.layer.mask import AttentionMask, Causal, Dense, Mask, Packed, Padding, Prefix, prepare_mask
from flagai.model.layer.norm import LayerNorm, RMSNorm
from flagai.model.layer.packed_row import PackedRow
from flagai.model.layer.position import RelativeBias
from flagai.model.layer.prompt import PromptSpell

__all__ = [
    "CRF",
    "Attention",
    "AttentionMask",
    "Causal",
    "CheckedEmbedding",
    "CrossAttention",
    "Dense",
    "Embeddings",
    "FeedForward",
    "GatedFeedForward",
    "GlobalPointer",
    "KVCache",
    "LayerNorm",
    "Linear",
    "Mask",
    "MaskLMHead",
    "Packed",
    "PackedRow",
    "Padding",
    "Pooler",
    "Prefix",
    "PromptSpell",
    "RMSNorm",
    "RelativeBias",
    "activation",
    "prepare_mask",
]
