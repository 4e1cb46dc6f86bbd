"""The private API of PyTorch stands in one file, and was tested with the installed version."""

import re

import torch

from flagai.parallel import torch_private
from tests.structure.sources import SOURCE

# Attributes and modules of torch.distributed with a leading underscore.
PRIVATE = re.compile(r"\._local_tensor|\._spec\b|\._is_param|torch\.distributed[\w.]*\._|import _symmetric_memory")


def test_the_installed_version_was_checked() -> None:
    version = ".".join(torch.__version__.split(".")[:2])
    assert version in torch_private.CHECKED, "run tests/parallel with it, then add it"


def test_no_other_file_uses_private_distributed_api() -> None:
    users = [path.name for path in SOURCE.rglob("*.py") if PRIVATE.search(path.read_text(encoding="utf-8"))]
    assert users == ["torch_private.py"]
