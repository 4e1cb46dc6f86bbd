"""Two processes compute a step's blocks together through memory that both write, and get what one process gets."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flagai.kernels.decode import block as fused
from flagai.kernels.decode import tensor_parallel_block
from flagai.kernels.decode.fused_all_reduce import (
    RowParallelLinear,
    TensorParallelGroup,
    linear_all_reduce,
)
from flagai.model.layer.kernel_choice import jit_kernels
from flagai.parallel.symmetric_memory import SymmetricBuffer
from flagai.parallel.world import make_mesh
from tests.generation.writers import lively
from tests.kernels import plain_products
from tests.kernels.steps import decode
from tests.parallel.comparing import SHARED
from tests.parallel.ranks import on_ranks

pytestmark = pytest.mark.usefixtures("device")  # reads kernels for the interpreter


def symmetric_buffers(count: int, capacity: int) -> list[SymmetricBuffer]:
    """Buffers in memory that processes share once they have forked: at the same addresses."""
    words = [torch.zeros(2, count, capacity, dtype=torch.int64).share_memory_() for _ in range(count)]
    places = torch.tensor([each.data_ptr() for each in words])
    return [SymmetricBuffer(each, places, torch.zeros(1, dtype=torch.int64), rank) for rank, each in enumerate(words)]


# -- one product --------------------------------------------------------------------------------------------------


def several_sums(boxes: list[SymmetricBuffer] | None, tokens: int, dtype: torch.dtype) -> list[Any]:
    mesh = make_mesh(tp=2)
    rank, group = mesh.get_local_rank(), mesh.get_group()
    meeting = TensorParallelGroup(group, None if boxes is None else boxes[rank])
    torch.manual_seed(0)
    norm = nn.LayerNorm(40).to(dtype)
    nn.init.normal_(norm.weight)
    bias, residual = torch.randn(40).to(dtype), torch.randn(tokens, 40).to(dtype)
    torch.manual_seed(1 + rank)
    part = RowParallelLinear(nn.Linear(24, 40, bias=False).to(dtype), bias)
    found = []
    for number in range(5):
        with torch.inference_mode():
            hidden = torch.randn(tokens, 24).to(dtype)
            asked = norm if number % 2 else None
            got = linear_all_reduce(hidden, part, meeting, number, residual=residual, norm=asked)
            wanted = plain_products.linear_all_reduce(hidden, part, meeting, residual=residual, norm=asked)
        for ours, theirs in zip(got, wanted, strict=True):
            assert ours.dtype == dtype
            torch.testing.assert_close(ours.float(), theirs.float(), atol=0.02, rtol=0.02)
        found += [tensor.tolist() for tensor in got]
        residual = got[0]
    return found


def sums_of_every_kind(boxes: list[SymmetricBuffer]) -> list[Any]:
    kinds = ((1, torch.float16, boxes), (16, torch.float32, boxes), (3, torch.float16, None))
    return [several_sums(between, tokens, dtype) for tokens, dtype, between in kinds]


def test_sums_of_two_ranks() -> None:
    """Of one token and of several, through buffers that both reach and through the group."""
    first, second = on_ranks(2, sums_of_every_kind, symmetric_buffers(2, 16 * 40))
    assert first == second, "bit for bit, or ranks part ways"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "dtype", "way"),
    [(3, torch.float16, "buffer"), (1, torch.float16, "group"), (16, torch.float32, "group")],
    ids=str,
)
def test_further_sums_of_two_ranks(tokens: int, dtype: torch.dtype, way: str) -> None:
    first, second = on_ranks(2, several_sums, symmetric_buffers(2, 16 * 40) if way == "buffer" else None, tokens, dtype)
    assert first == second, "bit for bit, or ranks part ways"


# -- all of it ----------------------------------------------------------------------------------------------------


def decoded(model: Any, lanes: int) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.inference_mode():
        return decode(model, (3, 5, 7, 9), lanes, 3)


def decoded_by_kernels(folder: Path, lanes: int, boxes: list[SymmetricBuffer] | None) -> list[Any]:
    mesh = make_mesh(tp=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "has_triton_half", lambda *_: True)
        patch.setattr(
            tensor_parallel_block, "rendezvous", lambda *_: None if boxes is None else boxes[mesh.get_local_rank()]
        )
        model = type(lively("GLMModel")).from_pretrained(folder, mesh=mesh)
        with jit_kernels() as used:
            found = decoded(model, lanes)
        assert used == {"decode.select.tensor_parallel_blocks"}
    return list(found.tolist())


SLOW = pytest.mark.slow


@pytest.mark.parametrize("lanes", [1, pytest.param(3, marks=SLOW)])
@pytest.mark.parametrize("way", ["buffer", pytest.param("group", marks=SLOW)])
def test_two_ranks_decode_with_kernels_what_one_decodes(tmp_path: Path, way: str, lanes: int) -> None:
    model = lively("GLMModel", **SHARED["glm"], spell_length=None)
    model.save_pretrained(tmp_path)
    expected = decoded(model, lanes)
    boxes = symmetric_buffers(2, 16 * 16) if way == "buffer" else None
    for found in on_ranks(2, decoded_by_kernels, tmp_path, lanes, boxes):
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-3, rtol=1e-3)
