"""The fastest product of float32 matrices that an x86 CPU offers, by the number of rows that meet the matrix.

With few rows the matrix must be read from memory, and nothing else counts. torch hands such products to MKL, which
reads with one core if there is one row, and badly if there are several. Gigabytes per second, two cores of a Zen 3,
matrices [3072, 768] that are not in the cache; "turned" are those that files hold as [in, out]:

    rows                                    1      2      4      8     16
    torch.nn.functional.linear             14      8      6      6      5
    parts of the matrix as a batch         27     15     14     11      8
    the matrix in front                    15     20     17      8      9
    oneDNN                                 19     14     11     11      8
    turned: linear                         18     10      5      5      4
    turned: parts of the long rows         27     19      8      8      5
    turned: parts of the result            20     15     10      8      7
"""

from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F

from flagai.model.layer.activations import activation
from flagai.model.layer.linear import linear

# Activations that oneDNN applies while the product is still in the cache: its name and its algorithm for each.
_FUSED = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_fast": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "swish": ("swish", ""),
    "tanh": ("tanh", ""),
}
# Where processors have AVX-512, oneDNN is 10 to 25 % faster than MKL, and applies the activation on the way. With
# AVX2 it is 15 % slower, and its own activations take five times as long as torch's.
_ONEDNN_CAPABILITY = "AVX512"
# oneDNN prepares code for every new number of rows (2 ms): not worth it for single steps of a decoder, unless the
# matrix is as large as a vocabulary.
_FEWEST_ROWS, _FEWEST_OF_MANY, _MANY = 16, 6, 8192
MOST_ROWS = _FEWEST_ROWS - 1
# Multiplications below which nothing is gained.
_LEAST_WORK = 1 << 22
# Up to so many rows the matrix in front is best, if its rows lie in one piece.
_MOST_WEIGHT_FIRST = 5
# Up to so many rows a turned matrix is best cut between the numbers that are added up: parts lie in one piece then.
_MOST_SPLIT_K = 3
# Up to so many rows parts are better than the whole.
_MOST_SPLIT = 64
# Numbers of a matrix below which sharing it out costs more than it gains, and its fewest rows in a part.
_LEAST_SHARED = 1 << 17
_LEAST_PART = 64
# More parts than cores: a late core delays the others less (a token of GPT-2: 26 ms, not 28).
_PARTS_A_CORE = 4
_HAS_MKL = torch.backends.mkl.is_available()
HAS_ONEDNN = (
    _HAS_MKL
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.backends.cpu.get_cpu_capability().startswith(_ONEDNN_CAPABILITY)
)


class SkinnyLinear:
    """A linear layer for few rows, whose matrix is cut for all cores if it is larger than one's cache.

    What it needs of the matrix is worked out once: steps of a decoder keep it.

    Args:
        weight: [out, in]; its rows or its columns lie without gaps.
        bias: [out]
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight
        self.bias = bias
        self._cores = torch.get_num_threads() if weight.numel() >= _LEAST_SHARED else 1
        self._transposed = weight.stride(0) == 1 and weight.shape[1] % self._cores == 0
        self._contiguous = weight.is_contiguous()

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[R, in] -> [R, out]."""
        rows = len(hidden)
        if 1 < rows <= _MOST_WEIGHT_FIRST and self._contiguous:
            return self._weight_times_input(hidden)
        if self._cores == 1 or rows > _MOST_SPLIT:
            return F.linear(hidden, self.weight, self.bias)
        return self._split_k(hidden) if rows <= _MOST_SPLIT_K and self._transposed else self._split_n(hidden)

    def _weight_times_input(self, hidden: torch.Tensor) -> torch.Tensor:
        turned = hidden.T
        found = self.weight @ turned if self.bias is None else torch.addmm(self.bias[:, None], self.weight, turned)
        return found.T.contiguous()

    @cached_property
    def _columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The columns as a batch, [parts, in / parts, out], and what is added to their products: once, the bias."""
        (outputs, inputs), (down, across) = self.weight.shape, self.weight.stride()
        parts = _PARTS_A_CORE * self._cores
        if inputs % parts or inputs < parts * _LEAST_PART:
            parts = self._cores
        size = inputs // parts
        bias = self.weight.new_zeros(parts, 1, outputs)
        if self.bias is not None:
            bias[0, 0] = self.bias
        return self.weight.as_strided((parts, size, outputs), (size * across, across, down)), bias

    def _split_k(self, hidden: torch.Tensor) -> torch.Tensor:
        matrices, bias = self._columns
        pieces = hidden.unflatten(1, matrices.shape[:2]).transpose(0, 1)
        return torch.baddbmm(bias, pieces, matrices).sum(0)

    @cached_property
    def _rows(self) -> tuple[torch.Tensor, torch.Tensor | None, int]:
        """The rows as a batch, [parts, in, out / parts], their biases [parts, 1, out / parts], and how many rows."""
        (outputs, inputs), (down, across) = self.weight.shape, self.weight.stride()
        parts = max(1, min(_PARTS_A_CORE * self._cores, outputs // _LEAST_PART))
        size = outputs // parts
        bias = None if self.bias is None else self.bias[: parts * size].view(parts, 1, size)
        return self.weight.as_strided((parts, inputs, size), (size * down, across, down)), bias, parts * size

    def _split_n(self, hidden: torch.Tensor) -> torch.Tensor:
        matrices, bias, count = self._rows
        many = hidden.expand(len(matrices), -1, -1)
        found = torch.bmm(many, matrices) if bias is None else torch.baddbmm(bias, many, matrices)
        found = found.transpose(0, 1).reshape(len(hidden), -1)
        if count == len(self.weight):
            return found
        rest = F.linear(hidden, self.weight[count:], None if self.bias is None else self.bias[count:])
        return torch.cat([found, rest], 1)


def is_plain(parameter: torch.Tensor) -> bool:
    """Whether a matrix or a bias is float32 on a CPU with MKL, in a memory order that its products take.

    Parameters of other types (quantized, distributed) have products of their own.
    """
    return (
        _HAS_MKL
        and type(parameter) is nn.Parameter
        and parameter.dtype is torch.float32
        and parameter.device.type == "cpu"
        and 1 in parameter.stride()
    )


def _infers(hidden: torch.Tensor) -> bool:
    """Whether this is inference in float32."""
    return hidden.dtype is torch.float32 and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def _suits_onednn(rows: int, hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        HAS_ONEDNN
        and rows >= (_FEWEST_ROWS if len(weight) < _MANY else _FEWEST_OF_MANY)
        and rows * weight.numel() >= _LEAST_WORK
        # It is a hundred times slower with transposed or strided matrices.
        and weight.is_contiguous()
        and hidden.is_contiguous()
        and bool(torch.backends.mkldnn.enabled)
    )


def _suits_fused(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, activation_name: str | None = None
) -> bool:
    rows = hidden.numel() // weight.shape[1]
    return activation_name in _FUSED and _infers(hidden) and is_plain(weight) and _suits_onednn(rows, hidden, weight)


def _suits_few(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, activation_name: str | None = None
) -> bool:
    return _infers(hidden) and is_plain(weight) and 0 < hidden.numel() // weight.shape[1] <= _MOST_SPLIT


@linear.faster(_suits_fused)
def linear_by_onednn(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, activation_name: str | None = None
) -> torch.Tensor:
    """Many rows through oneDNN, which also applies the activation."""
    kind, algorithm = _FUSED[activation_name]
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, kind, [], algorithm)
    return product


@linear.faster(_suits_few)
def linear_of_few_rows(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, activation_name: str | None = None
) -> torch.Tensor:
    """Few rows, with the matrix split over the cores."""
    product = SkinnyLinear(weight, bias)(hidden.reshape(-1, weight.shape[1])).view(*hidden.shape[:-1], -1)
    return product if activation_name is None else activation(activation_name)(product)
