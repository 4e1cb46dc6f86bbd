"""Random initialization of parameters."""

import torch
from torch import nn

from flagai.model.layer.crf import CRF
from flagai.model.layer.norm import RMSNorm
from flagai.parallel.dtensor import is_sharded, local, scatter_from_first_rank


@torch.no_grad()
def initialize(module: nn.Module, leaf: str, std: float) -> None:
    """Randomly initialize one parameter of a module: matrices normal, biases zero, norms one.

    A sharded parameter is initialized whole, so that one seed gives one model on any number of ranks, and then sharded.

    Args:
        module: the module that owns the parameter.
        leaf: the parameter's name in the module.
        std: standard deviation of matrices and embeddings.
    """
    parameter = module.get_parameter(leaf)
    if not is_sharded(parameter):
        _initialize(module, leaf, parameter, std)
        return
    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=local(parameter).device)
    _initialize(module, leaf, values, std)
    scatter_from_first_rank(values, parameter)


def _initialize(module: nn.Module, leaf: str, parameter: torch.Tensor, std: float) -> None:
    if isinstance(module, (nn.LayerNorm, RMSNorm)):
        parameter.fill_(1.0 if leaf == "weight" else 0.0)
    elif isinstance(module, CRF):
        nn.init.xavier_uniform_(parameter)
    elif isinstance(module, nn.LSTM):
        bound = module.hidden_size**-0.5
        parameter.uniform_(-bound, bound)
    elif leaf == "bias":
        parameter.zero_()
    else:
        parameter.normal_(std=std)
