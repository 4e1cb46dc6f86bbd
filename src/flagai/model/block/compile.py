"""Blocks compiled by torch.compile, for training and for encoders."""

import logging
from typing import Any

import torch
from torch import nn

from flagai.model.block.stack import BlockStack
from flagai.model.layer.operation import operation

logger = logging.getLogger(__name__)


@operation
def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of a model in place, for any batch size and length; equal blocks share their code.

    A block that cannot be compiled runs as before, after one warning.

    Args:
        model: the model; it stays of its class, and its parameters keep their names.
    """
    for stack in model.modules():
        if isinstance(stack, BlockStack):
            for block in stack:
                compile_module(block)


def compile_module(module: nn.Module) -> None:
    """Compile a module, which runs as it is where the compiler fails.

    torch's own switch for that, ``suppress_errors``, would also hide the failures of the caller's own models.
    """
    module.compile(dynamic=True)
    compiled: Any = module._compiled_call_impl
    plain: Any = module._call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except (torch._dynamo.exc.TorchDynamoException, AssertionError) as error:  # it does not wrap its own assertions
            output = plain(*args, **kwargs)  # raises, too, if it is the input that does not fit
            module._compiled_call_impl = None
            logger.warning("%s cannot be compiled and runs as it is. %s", type(module).__name__, error)
            return output

    module._compiled_call_impl = call
