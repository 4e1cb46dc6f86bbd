"""The names in pickles of torch that mean a type, and those of classes that may occur beside the weights."""

import re
from fnmatch import translate

import torch

# Without quantized ones: torch crashes where memory that it did not allocate becomes a tensor of them.
DTYPES = {
    str(value): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype) and not str(value).startswith("torch.q")
}
# The classes of torch's storages: all elements of one are of one type.
STORAGES = {
    f"{place}.{kind}Storage": dtype
    for place in ("torch", "torch.cuda", "torch.storage")
    for kind, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "ComplexDouble": torch.complex128,
        "ComplexFloat": torch.complex64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "Untyped": torch.uint8,
    }.items()
}
_BUILTINS = ("set", "frozenset", "bytearray", "complex", "object")
# Classes and functions of training dumps. None of them is imported: each becomes a stand-in, and is dropped.
_HARMLESS = (
    *("collections.OrderedDict", "collections.Counter", "argparse.Namespace", "_codecs.encode"),
    *("torch._utils._rebuild_*", "torch._tensor._rebuild_from_type_v2", "torch.nn.parameter.*"),
    *("torch.serialization._get_layout", "torch.Size", "torch.Tensor", "torch.device"),
    *("torch.Q*Storage", "torch.q*int*", "torch.per_*"),
    *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in _BUILTINS),
    *("copyreg._reconstructor", "copy_reg._reconstructor"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *("numpy.ndarray", "numpy.dtype", "numpy.dtypes.*DType"),
    # Of the frameworks that trained GLM: THUDM's and FlagAI's own code, DeepSpeed, Megatron, Apex.
    *("*.loss_scaler.*LossScaler", "apex.*", "deepspeed.*", "fp16.*", "flagai.*", "megatron.*", "mpu.*"),
)
_HARMLESS_PATTERN = re.compile("|".join(map(translate, _HARMLESS)))


def is_harmless(name: str) -> bool:
    """Whether a pickle may name this class or function."""
    return name in DTYPES or name in STORAGES or _HARMLESS_PATTERN.fullmatch(name) is not None
