"""Which blocks one kernel computes, and who computes them where it cannot be had; what it computes, tests/gpu sees."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from flagai.kernels.cuda import whole_stack as megakernel
from flagai.kernels.cuda.launch_plan import LaunchPlan
from flagai.kernels.cuda.whole_stack import compiled, launch_plan, whole_stack
from flagai.kernels.eligible import linear_layers
from flagai.model.quantization import quantize
from tests import tiny

# Multiprocessors and shared memory of an H100.
H100 = (132, 232448)


@pytest.fixture(params=["int8", "int4"])
def way(request: pytest.FixtureRequest) -> str | None:
    """How the weights are kept."""
    return cast(str | None, request.param)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch, way: str | None) -> list[Any]:
    """Of GLM-10b's width, without memory, as if on an H100."""
    gpu = SimpleNamespace(multi_processor_count=H100[0], shared_memory_per_block_optin=H100[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(megakernel, "can_compile", lambda _: True)
    sizes = {"hidden_size": 4096, "num_attention_heads": 64, "num_layers": 3, "spell_length": None}
    model = tiny.CLASSES["GLMModel"].on_meta(tiny.config("GLMModel", **sizes)).bfloat16()
    if way is not None:
        quantize(model, way)
    return list(model.blocks)


def _apart(module: Any, name: str) -> None:
    """Put a parameter where no line begins."""
    tensor = getattr(module, name)
    place = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    setattr(module, name, nn.Parameter(place[1:].view(tensor.shape), requires_grad=False))


def _gain_apart(block: Any) -> None:
    _apart(block.norm2, "weight")


def _shift_apart(block: Any) -> None:
    _apart(block.norm2, "bias")


def _matrix_apart(block: Any) -> None:
    _apart(block.feed_forward.up, "weight")


def _scale_apart(block: Any) -> None:
    _apart(block.feed_forward.up, "weight_scale")


def _turned(block: Any) -> None:
    layer = block.feed_forward.up
    layer.weight = nn.Parameter(layer.weight.T.contiguous().T, requires_grad=False)


def _other_group(block: Any) -> None:
    block.attention.out.group = 64


def _other_bits(block: Any) -> None:
    block.attention.out.bits = 12 - block.attention.out.bits


def _other_scale(block: Any) -> None:
    block.attention.scale = 1.0


def _other_heads(block: Any) -> None:
    block.attention.head_dim = 128


def _other_eps(block: Any) -> None:
    block.norm2.eps = 0.5


def _other_activation(block: Any) -> None:
    block.feed_forward.activation_name = "relu"


def _other_type(block: Any) -> None:
    block.half()


def _elsewhere(block: Any) -> None:
    block.norm1.bias = nn.Parameter(torch.empty(4096, dtype=torch.bfloat16, device="cpu"), requires_grad=False)


def _narrow(block: Any) -> None:
    block.attention.v.out_features = 2048


def _narrow_inside(block: Any) -> None:
    block.feed_forward.down.in_features = 8192


def _all_of_eight_bits(block: Any) -> None:
    for layer in linear_layers(block):
        layer.bits = 8


def assert_left_to_themselves(blocks: list[Any], change: Callable[[Any], None], which: list[int]) -> None:
    """The kernel takes blocks as they were, and not when some have changed."""
    assert launch_plan(blocks, 1)
    for index in which:
        change(blocks[index])
    assert launch_plan(blocks, 1) is None


@pytest.mark.parametrize(
    ("change", "which"),
    [
        (change, which)
        for change in (_gain_apart, _shift_apart, _matrix_apart, _turned, _other_bits)
        for which in ([0], [2], [0, 1, 2])
    ]
    + [(change, [2]) for change in (_other_scale, _other_heads, _other_eps, _other_activation, _other_type, _narrow)]
    + [(change, [0, 1, 2]) for change in (_other_heads, _other_eps, _narrow, _narrow_inside)]
    + [(_elsewhere, [2])],
)
def test_others_are_left_to_themselves(blocks: list[Any], change: Callable[[Any], None], which: list[int]) -> None:
    """One block that is unlike the rest, or all that are unlike what the kernel knows."""
    assert_left_to_themselves(blocks, change, which)


@pytest.mark.parametrize(
    ("way", "change", "which"),
    [
        ("int4", _other_group, [0, 1, 2]),
        ("int4", _scale_apart, [2]),
        ("int4", _all_of_eight_bits, [2]),
        ("int8", _scale_apart, [2]),
    ],
    indirect=["way"],
)
def test_others_of_one_kind(blocks: list[Any], change: Callable[[Any], None], which: list[int]) -> None:
    assert_left_to_themselves(blocks, change, which)


def test_where_nothing_can_be_compiled(blocks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(megakernel, "can_compile", lambda _: False)
    assert launch_plan(blocks, 1) is None


def test_a_gpu_with_little_shared_memory(blocks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(multi_processor_count=H100[0], shared_memory_per_block_optin=101376)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert launch_plan(blocks, 1) is None


def test_blocks_of_16_bits_are_computed_one_by_one(blocks: list[Any]) -> None:
    model = tiny.CLASSES["GLMModel"].on_meta(tiny.config("GLMModel", hidden_size=2048, num_attention_heads=32))
    assert launch_plan(list(model.bfloat16().blocks), 1) is None


def test_steps_of_several_tokens_are_others(blocks: list[Any]) -> None:
    assert launch_plan(blocks, 2) is None


def test_a_refusal_is_told_once(
    blocks: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any) -> Any:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(megakernel.CudaKernel, "of", refused)
    compiled.cache_clear()
    assert [whole_stack(blocks, 1) for _ in range(2)] == [None, None]
    compiled.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "Blocks are computed one by one; there is no kernel for all of them here. the driver is too old"
    ]


def test_blocks_elsewhere_stay_as_they_are() -> None:
    assert launch_plan(list(tiny.build("GLMModel").blocks), 1) is None


@pytest.mark.parametrize(("bits", "tiles", "ring", "slot"), [(4, 32, 22, 8720), (8, 64, 23, 8208)])
def test_cut_for_glm_10b(bits: int, tiles: int, ring: int, slot: int) -> None:
    cut = LaunchPlan(4096, 16384, 48, bits, *H100)
    assert cut.fits
    assert (cut.tiles, cut.ring) == (tiles, ring)
    assert cut.shared <= H100[1] < cut.shared + slot


@pytest.mark.parametrize(("hidden", "bits"), [(2048, 8), (4096, 4)])
def test_narrow_blocks(hidden: int, bits: int) -> None:
    assert LaunchPlan(hidden, 4 * hidden, 24, bits, *H100).fits


def test_results_of_queries_keys_and_values_have_room() -> None:
    """They are more than those of a narrow feed-forward layer."""
    assert LaunchPlan(4096, 4096, 48, 4, *H100).tiles == 24


@pytest.mark.parametrize(
    "cut",
    [
        LaunchPlan(1024, 4096, 24, 8, *H100),  # half a tile
        LaunchPlan(2048, 8192, 24, 4, *H100),  # half a tile
        LaunchPlan(1024, 4096, 24, 4, *H100),  # fewer rows of tiles than SMs
        LaunchPlan(6144, 24576, 24, 8, *H100),  # three tiles
        LaunchPlan(4096, 10240, 24, 4, *H100),  # inner numbers are no squares
        LaunchPlan(12288, 49152, 24, 4, *H100),  # three tiles
        LaunchPlan(4096, 16384, 24, 4, 16, 232448),  # a small GPU: more rows than threads
        LaunchPlan(4096, 16384, 48, 4, 132, 101376),  # little shared memory
    ],
    ids=str,
)
def test_what_does_not_fit(cut: LaunchPlan) -> None:
    assert not cut.fits
