"""Products of a few tokens with 16-bit weights that are in registers before the tokens are there, in CUDA C++."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from flagai.kernels.cuda.nvrtc import CudaKernel, can_compile
from flagai.kernels.decode.common import ACTIVATIONS, MOST_ROWS, Slots, layer_norm
from flagai.kernels.hardware import HALF

logger = logging.getLogger(__name__)
# The activations by their numbers in half.cuh.
_ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")
# The widest tokens that a product normalises itself: each of its programs does.
_WIDEST_NORM = 2048
# Numbers of a matrix that one token, or more than 8, meet; Triton's programs read larger ones faster.
_MOST_NUMBERS = 1 << 23


@dataclass(frozen=True)
class ProductPlan:
    """How a product is cut into programs; see cuda/rows_product/product.cu.

    Args:
        tiles: of 8 rows of the matrix that a program takes.
        warps: which share the columns.
    """

    tiles: int
    warps: int

    @classmethod
    def of(cls, outputs: int, matrices: int, size: int, tokens: int) -> "ProductPlan | None":
        """For matrices [outputs, size]; None if others compute them faster, or the kernel does not take them.

        Few large programs are best, as the next kernel's begin beside them; with more than 8 tokens there are no
        registers for four tiles. Measured on one H200.
        """
        wide, few = size > 2048, tokens <= MOST_ROWS // 2
        if (tokens == 1 or not few) and outputs * matrices * size > _MOST_NUMBERS:
            return None
        plans = [cls(2, 16 if wide else 8), cls(1, 16 if wide else 8), cls(1, 4)]
        if few and size <= 1024 and outputs * matrices >= 3072:
            plans = [*([cls(8, 16)] if outputs >= 4096 else []), cls(4, 8), *plans]
        return next((plan for plan in plans if plan.takes(outputs, size)), None)

    def takes(self, outputs: int, size: int) -> bool:
        """Whether rows and columns are multiples of what programs and warps take, and fit into registers."""
        chunks = size // (32 * self.warps)
        return outputs % (8 * self.tiles) == 0 == size % (32 * self.warps) and chunks <= 8 and self.tiles * chunks <= 16


def rows_product(
    tokens: torch.Tensor,
    layers: Sequence[Any],
    *,
    norm: nn.LayerNorm | None = None,
    activation_name: str | None = None,
    residual: torch.Tensor | None = None,
    slots: Slots | None = None,
    plan: ProductPlan | None = None,
) -> torch.Tensor | None:
    """See :func:`flagai.kernels.decode.ops.linear_act_residual` and :func:`~flagai.kernels.decode.ops.qkv_to_cache`.

    Args:
        tokens: contiguous, [M, K].
        layers: one, or those of queries, keys and values, [N, K].
        norm: applied to the tokens first.
        activation_name: applied to the result.
        residual: added in the end, [M, N].
        slots: where keys and values go.
        plan: how the product is cut.

    Shape:
        -> [M, N]; None if the kernel does not take them.
    """
    (count, size), outputs, first = tokens.shape, layers[0].out_features, layers[0].weight
    fused = norm if size <= _WIDEST_NORM else None
    plan = plan or ProductPlan.of(outputs, len(layers), size, count)
    read = [tokens, *(layer.weight for layer in layers), *([] if fused is None else [fused.weight, fused.bias])]
    if plan is None or not _takes(tokens, read):
        return None
    form = (outputs, len(layers), size, count > MOST_ROWS // 2)
    kernel = _compiled(plan, form, fused is not None, activation_name, residual is not None, first.dtype, first.device)
    if kernel is None:
        return None
    query, key, value = layers if len(layers) == 3 else (*layers, *layers, *layers)
    tokens = tokens if norm is None or fused is not None else layer_norm(tokens, norm, pdl=True)
    out = tokens.new_empty(count, outputs)
    kernel.run_early(
        outputs * len(layers) // (8 * plan.tiles),
        32 * plan.warps,
        tokens,
        *(layer.weight for layer in (query, key, value)),
        *(layer.bias for layer in (query, key, value)),
        *((None, None, 0.0) if fused is None else (fused.weight, fused.bias, float(fused.eps))),
        residual,
        out,
        *((None, None, None) if slots is None else (slots.keys, slots.values, slots.slot_mapping)),
        count,
    )
    return out


def _takes(tokens: torch.Tensor, read: Sequence[torch.Tensor]) -> bool:
    """Whether there is a kernel for these tokens, and what it reads lies where 16 bytes begin."""
    return (
        0 < len(tokens) <= MOST_ROWS
        and tokens.dtype in HALF
        and can_compile(tokens.device)
        and all(each.is_contiguous() and each.data_ptr() % 16 == 0 for each in read)
    )


@cache
def _compiled(
    plan: ProductPlan,
    form: tuple[int, int, int, bool],
    norm: bool,
    activation_name: str | None,
    residual: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> CudaKernel | None:
    """The kernel; None where it cannot be compiled, which is tried once."""
    outputs, matrices, size, many = form
    activation = -1 if activation_name is None else _ACTIVATIONS.index(ACTIVATIONS[activation_name])
    options: dict[str, Any] = {
        "K": size, "N": outputs, "MATRICES": matrices, "HALVES": 1 + many, "TILES": plan.tiles, "WARPS": plan.warps,
        "NORM": norm, "ACTIVATION": activation, "RESIDUAL": residual,
        "BFLOAT": dtype is torch.bfloat16,
    }  # fmt: skip
    try:
        given = tuple((name, int(value)) for name, value in options.items())
        return CudaKernel.of("rows_product", "product_kernel", given, 0, device)
    except RuntimeError as error:
        logger.warning("A product of few tokens is computed by Triton; CUDA's kernel for it fails here. %s", error)
        return None
