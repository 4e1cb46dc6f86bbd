"""The layers: every one from which blocks and models are built."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.model.layer.activations import activation as activation
    from flagai.model.layer.attention import Attention as Attention
    from flagai.model.layer.attention import CrossAttention as CrossAttention
    from flagai.model.layer.cache import KVCache as KVCache
    from flagai.model.layer.checked_embedding import CheckedEmbedding as CheckedEmbedding
    from flagai.model.layer.crf import CRF as CRF
    from flagai.model.layer.embedding import Embeddings as Embeddings
    from flagai.model.layer.feed_forward import FeedForward as FeedForward
    from flagai.model.layer.gated_feed_forward import GatedFeedForward as GatedFeedForward
    from flagai.model.layer.global_pointer import GlobalPointer as GlobalPointer
    from flagai.model.layer.head import MaskLMHead as MaskLMHead
    from flagai.model.layer.head import Pooler as Pooler
    from flagai.model.layer.linear import Linear as Linear
    from flagai.model.layer.mask import Causal as Causal
    from flagai.model.layer.mask import Dense as Dense
    from flagai.model.layer.mask import Mask as Mask
    from flagai.model.layer.mask import Packed as Packed
    from flagai.model.layer.mask import Padding as Padding
    from flagai.model.layer.mask import Prefix as Prefix
    from flagai.model.layer.mask import prepare_mask as prepare_mask
    from flagai.model.layer.norm import LayerNorm as LayerNorm
    from flagai.model.layer.norm import RMSNorm as RMSNorm
    from flagai.model.layer.packed_row import PackedRow as PackedRow
    from flagai.model.layer.position import RelativeBias as RelativeBias
    from flagai.model.layer.prompt import PromptSpell as PromptSpell
    from flagai.model.layer.rotary import Rotary as Rotary
    from flagai.model.layer.rotary import Rotation as Rotation
    from flagai.model.layer.sdpa import AttentionMask as AttentionMask
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "flagai.model.layer.activations": "activation",
            "flagai.model.layer.attention": "Attention CrossAttention",
            "flagai.model.layer.cache": "KVCache",
            "flagai.model.layer.crf": "CRF",
            "flagai.model.layer.checked_embedding": "CheckedEmbedding",
            "flagai.model.layer.embedding": "Embeddings",
            "flagai.model.layer.feed_forward": "FeedForward",
            "flagai.model.layer.gated_feed_forward": "GatedFeedForward",
            "flagai.model.layer.global_pointer": "GlobalPointer",
            "flagai.model.layer.head": "MaskLMHead Pooler",
            "flagai.model.layer.linear": "Linear",
            "flagai.model.layer.mask": "Causal Dense Mask Packed Padding Prefix prepare_mask",
            "flagai.model.layer.norm": "LayerNorm RMSNorm",
            "flagai.model.layer.packed_row": "PackedRow",
            "flagai.model.layer.position": "RelativeBias",
            "flagai.model.layer.prompt": "PromptSpell",
            "flagai.model.layer.rotary": "Rotary Rotation",
            "flagai.model.layer.sdpa": "AttentionMask",
        },
    )
