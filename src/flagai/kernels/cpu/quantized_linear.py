"""Products with weights of 8 and 4 bits on a CPU, for few tokens, by torch's kernels."""

import torch

from flagai.checkpoint.quantization import scales_and_minima, unpack_int4
from flagai.model.layer.quantized_linear import Quantized, quantized_linear

# More tokens than this are faster with a dequantized matrix. One core, 4096 x 1024, one token: bfloat16 0.8 ms as it
# is, 0.3 with 8 bits, 0.6 with four; float32 0.6 as it is, 4 and 8, and above 7 with a dequantized matrix.
_MOST = {torch.bfloat16: 16, torch.float32: 1}
# What torch's kernels demand of the number of rows.
_ROWS = 64
_KERNELS = ("_weight_int8pack_mm", "_weight_int4pack_mm_for_cpu", "_convert_weight_to_int4pack_for_cpu")
_PRESENT = all(hasattr(torch, name) for name in _KERNELS)


def _suits(layer: Quantized, hidden: torch.Tensor) -> bool:
    """Whether torch's kernels compute a product."""
    tokens = hidden.numel() // layer.in_features
    return (
        _PRESENT
        and hidden.device.type == "cpu"
        and 0 < tokens <= _MOST.get(hidden.dtype, 0)
        and layer.out_features % _ROWS == 0
        and layer.in_features % 32 == 0
        and not (torch.is_grad_enabled() and hidden.requires_grad)
    )


@quantized_linear.faster(_suits)
def quantized_linear_cpu(layer: Quantized, hidden: torch.Tensor) -> torch.Tensor:
    """[..., in] -> [..., out]."""
    tokens = hidden.reshape(-1, layer.in_features)
    if layer.bits == 8:
        # Scales by themselves: the kernel would round them to the tokens' type.
        plain = torch._weight_int8pack_mm(tokens, layer.weight, _ones(layer, tokens.dtype))
        found = (plain.float() * layer.weight_scale).to(tokens.dtype)
    else:
        matrix, scales = _packed(layer, tokens.dtype)
        found = torch._weight_int4pack_mm_for_cpu(tokens, matrix, layer.group, scales)
    found = found if layer.bias is None else found + layer.bias
    return found.view(*hidden.shape[:-1], layer.out_features)


def _ones(layer: Quantized, dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(1, dtype=dtype).expand(layer.out_features).contiguous()


def _packed(layer: Quantized, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix as torch's kernel for 4 bits reads it; made once, it takes as much memory as the matrix."""
    version = None if layer.weight.is_inference() else layer.weight._version
    key = (layer.weight.data_ptr(), version, dtype)
    kept = layer.__dict__.get("cpu_form")
    if kept is None or kept[0] != key:
        step, least = scales_and_minima(layer.weight_scale)
        matrix = torch._convert_weight_to_int4pack_for_cpu(unpack_int4(layer.weight, layer.weight_scale), 1)
        scales = torch.stack([step, least + 8 * step], dim=2).transpose(0, 1).contiguous().to(dtype)
        kept = layer.__dict__["cpu_form"] = (key, matrix, scales)
    return kept[1], kept[2]
