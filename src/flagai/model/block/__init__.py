"""The blocks: layers assembled, one class per family, and the residual shapes they have."""

from typing import TYPE_CHECKING

from flagai.lazy import lazy_names

if TYPE_CHECKING:
    from flagai.model.block.bert_block import BertBlock as BertBlock
    from flagai.model.block.deep_norm_block import DeepNormBlock as DeepNormBlock
    from flagai.model.block.glm_block import GLMBlock as GLMBlock
    from flagai.model.block.gpt2_block import GPT2Block as GPT2Block
    from flagai.model.block.post_norm_block import PostNormBlock as PostNormBlock
    from flagai.model.block.pre_norm_block import PreNormBlock as PreNormBlock
    from flagai.model.block.sandwich_block import SandwichBlock as SandwichBlock
    from flagai.model.block.stack import BlockStack as BlockStack
    from flagai.model.block.t5_block import T5Block as T5Block
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "flagai.model.block.bert_block": "BertBlock",
            "flagai.model.block.deep_norm_block": "DeepNormBlock",
            "flagai.model.block.glm_block": "GLMBlock",
            "flagai.model.block.gpt2_block": "GPT2Block",
            "flagai.model.block.post_norm_block": "PostNormBlock",
            "flagai.model.block.pre_norm_block": "PreNormBlock",
            "flagai.model.block.sandwich_block": "SandwichBlock",
            "flagai.model.block.stack": "BlockStack",
            "flagai.model.block.t5_block": "T5Block",
        },
    )
