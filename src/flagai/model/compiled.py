"""Blocks compiled by torch.compile, for training and for encoders."""

import torch

from flagai.model.base_model import BaseModel
from flagai.model.block import BlockStack
from flagai.model.layer.attention import Attention


def compile_blocks(model: BaseModel) -> None:
    """Compile the blocks of a model in place, for any batch size and length; equal blocks share their code.

    Attention is left as it is: its kernels are as fast as they get, and how texts are packed differs in every batch.
    A block that cannot be compiled runs as before.

    Args:
        model: the model; it stays of its class, and its parameters keep their names.
    """
    torch._dynamo.config.suppress_errors = True
    for module in model.modules():
        if isinstance(module, Attention):
            module.kernel = torch.compiler.disable(module.kernel)
    for stack in model.modules():
        if isinstance(stack, BlockStack):
            for block in stack:
                block.compile(dynamic=True)
