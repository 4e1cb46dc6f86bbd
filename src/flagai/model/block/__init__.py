"""The blocks: layers assembled, one class per family, and the two residual shapes they have."""

from flagai.model.block.bert_block import BertBlock
from flagai.model.block.glm_block import GLMBlock
from flagai.model.block.gpt2_block import GPT2Block
from flagai.model.block.residual import PostNormBlock, PreNormBlock
from flagai.model.block.stack import BlockStack
from flagai.model.block.t5_block import T5Block

__all__ = ["BertBlock", "BlockStack", "GLMBlock", "GPT2Block", "PostNormBlock", "PreNormBlock", "T5Block"]
