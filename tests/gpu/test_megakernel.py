"""All blocks of a step in one kernel, beside the same blocks one after the other."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from flagai.generation import Decoding, Prompt, generate
from flagai.generation.replay.step_pool import step_pool
from flagai.kernels.cuda.nvrtc import CudaKernel
from flagai.kernels.cuda.whole_stack import Megakernel, compiled, whole_stack
from flagai.kernels.decode.block import FusedPreNormBlock
from flagai.model.block.stack import cached_blocks
from flagai.model.layer.cache import KVCache
from flagai.model.layer.kernel_choice import jit_kernels
from flagai.model.layer.sdpa import AttentionMask
from flagai.model.layer.static_cache import StaticCache
from flagai.model.quantization import quantize
from tests import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_properties(0).shared_memory_per_block_optin < 200_000,
        reason="needs a GPU of a server since Hopper",
    ),
]
WIDTH, HEADS = 4096, 64


def build(
    layers: int, dtype: torch.dtype = torch.bfloat16, name: str = "GLMModel", bits: str | None = "int4", **sizes: Any
) -> Any:
    own = {
        "GLMModel": {
            "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_layers": layers, "max_sequence_length": 1024,
            "vocab_size": 300, "spell_length": None,
        },
        "GPT2Model": {
            "n_embd": WIDTH, "n_head": HEADS, "n_layer": layers, "n_inner": 2 * WIDTH, "vocab_size": 300,
            "n_positions": 1024,
        },
    }[name]  # fmt: skip
    model = tiny.CLASSES[name].on_meta(tiny.config(name, **{**own, **sizes})).to(dtype).eval()
    model.initialized_on(torch.device("cuda"))
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.2)
        else:
            nn.init.normal_(parameter, 0, 0.02)
    if bits is not None:
        quantize(model, bits)
    return model


def cache_of(model: Any, capacity: int, written: int) -> StaticCache:
    torch.manual_seed(1)
    weight, count = model.blocks[0].norm1.weight, len(model.blocks)
    dtype, heads = weight.dtype, weight.numel() * HEADS // WIDTH
    like = KVCache(count, 0)
    for index in range(count):
        like.append(index, *torch.randn(2, 1, heads, 1, WIDTH // HEADS, device="cuda", dtype=dtype))
    cache = StaticCache(like, capacity, 1)
    for index in range(count):
        for buffer in cache.buffers(index):
            buffer[:, :, :written] = torch.randn_like(buffer[:, :, :written])
    cache.go_to(written)
    return cache


def one_by_one(model: Any, hidden: torch.Tensor, visible: AttentionMask, cache: StaticCache) -> torch.Tensor:
    """What the kernels of each block make of a token."""
    for index, block in enumerate(model.blocks):
        hidden = FusedPreNormBlock(block)(hidden, visible, cache=cache.layer(index))
    return hidden


def together(model: Any, hidden: torch.Tensor, visible: AttentionMask, cache: StaticCache) -> torch.Tensor:
    """What the kernel of all blocks makes of it."""
    return megakernel(model)(hidden, visible, cache)


def megakernel(model: Any) -> Megakernel:
    found = whole_stack(list(model.blocks), 1)
    assert found is not None
    return found


def seeing(count: int, capacity: int = 128) -> AttentionMask:
    return AttentionMask((torch.arange(capacity, device="cuda") < count)[None, None, None])


def token(width: int = WIDTH, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(1, 1, width, device="cuda", dtype=dtype)


every = pytest.mark.parametrize("bits", [None, "int4", "int8"])


@torch.inference_mode()
@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("layers", "capacity", "written"), [(1, 128, 1), (2, 128, 100), (3, 1024, 700)])
def test_it_computes_what_the_blocks_compute(
    layers: int, capacity: int, written: int, dtype: torch.dtype, bits: str | None
) -> None:
    """Step after step, with an odd number of blocks too: what was told in one must be gone in the next."""
    model = build(layers, dtype, bits=bits)
    ours, theirs = (cache_of(model, capacity, written) for _ in range(2))
    kernel = megakernel(model)
    for step in range(4):
        seen = torch.arange(capacity, device="cuda") <= written + step
        seen[3:7] = written < 3
        visible = AttentionMask(seen[None, None, None])
        hidden = token(dtype=dtype)
        found, wanted = kernel(hidden, visible, ours), one_by_one(model, hidden, visible, theirs)
        assert (found - wanted).float().norm() < 0.02 * wanted.float().norm()
        for index in range(layers):
            for mine, other in zip(ours.buffers(index), theirs.buffers(index), strict=True):
                torch.testing.assert_close(mine, other, atol=0.06, rtol=0.03)
        for cache in (ours, theirs):
            cache.go_to(written + step + 1)


@torch.inference_mode()
@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("outlier", [0.0, 30.0, 300.0])
def test_it_is_as_close_to_exact_results_as_the_blocks(outlier: float, dtype: torch.dtype, bits: str | None) -> None:
    """Also with numbers as large models have them, in the residual stream and between the wide matrices."""
    model, exact = (build(2, dtype, bits=bits) for _ in range(2))
    for each in (model, exact):
        for block in each.blocks:
            block.feed_forward.up.bias[::128] = outlier
    exact.float()
    hidden, visible = token(dtype=dtype), seeing(21)
    hidden[..., 5] = outlier
    caches = [cache_of(each, 128, 20) for each in (model, model, exact)]
    found, fused = together(model, hidden, visible, caches[0]), one_by_one(model, hidden, visible, caches[1])
    wanted = hidden.float()
    for index, block in enumerate(exact.blocks):
        wanted = block(wanted, visible, cache=caches[2].layer(index))
    ours, theirs = ((each.float() - wanted).norm() for each in (found, fused))
    assert ours < 1.3 * theirs


@torch.inference_mode()
@every
def test_what_is_no_number_stays_so(bits: str | None) -> None:
    """Nobody waits for a number that is none."""
    model = build(3, bits=bits)
    cache, kernel = cache_of(model, 128, 20), megakernel(model)
    hidden, visible = token(), seeing(21)
    good = kernel(hidden, visible, cache)
    bad = hidden.clone().view(torch.int16)
    bad[..., 7] = -1
    assert kernel(bad.view(torch.bfloat16), visible, cache).isnan().all()
    cache.go_to(20)
    torch.testing.assert_close(kernel(hidden, visible, cache), good, atol=0, rtol=0)


@every
@pytest.mark.parametrize("name", ["GLMModel", "GPT2Model"])
def test_texts(name: str, bits: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flagai.generation.replay.compile_ahead.PATIENCE", None)
    model = build(3, name=name, bits=bits)
    prompts = [Prompt((3, 50, 7, 9))]
    fast, plain = (
        generate(model, prompts, Decoding(max_new_tokens=30, cuda_graphs=graphs))[0][0] for graphs in (True, False)
    )
    (step,) = step_pool(model).ready
    assert "decode.select.megakernel_blocks" in step.kernels
    assert fast.ids[:3] == plain.ids[:3]
    again = generate(model, prompts, Decoding(max_new_tokens=30))[0][0]
    assert again.ids == fast.ids
    assert again.score == fast.score


@torch.inference_mode()
@every
def test_rows_of_several_tiles(bits: str | None) -> None:
    model = build(3, name="GPT2Model", bits=bits, n_embd=2 * WIDTH, n_head=2 * HEADS, n_inner=4 * WIDTH)
    caches = [cache_of(model, 128, 20) for _ in range(2)]
    hidden, visible = token(2 * WIDTH), seeing(21)
    found, wanted = together(model, hidden, visible, caches[0]), one_by_one(model, hidden, visible, caches[1])
    assert (found - wanted).float().norm() < 0.02 * wanted.float().norm()


def test_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models, each on a stream of its own: programs of one must not keep those of the other from meeting."""
    monkeypatch.setattr("flagai.generation.replay.compile_ahead.PATIENCE", None)
    models = [build(2), build(2, name="GPT2Model", bits="int8")]
    prompts = [Prompt((3, 50, 7, 9))]

    def written(model: Any) -> list[tuple[int, ...]]:
        with torch.cuda.stream(torch.cuda.Stream()):
            return [generate(model, prompts, Decoding(max_new_tokens=200))[0][0].ids for _ in range(10)]

    alone = [written(model)[-1] for model in models]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(written, models))
    assert [set(each) for each in together] == [{each} for each in alone]


def _refused(*_: Any) -> Any:
    raise RuntimeError("the driver is too old")


def used(model: Any, rows: int = 1) -> set[str]:
    """The kernels of a step of so many tokens."""
    cache, capacity = cache_of(model, 128, 20), 128
    hidden = token(model.blocks[0].norm1.weight.numel()).expand(rows, -1, -1)
    visible = AttentionMask((torch.arange(capacity, device="cuda") < 21).expand(rows, 1, 1, -1))
    with jit_kernels() as names:
        cached_blocks.choose(model.blocks, hidden, visible, cache)
    return names


@torch.inference_mode()
def test_others_are_computed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(2)
    assert used(model) == {"decode.select.megakernel_blocks"}
    assert used(model, 4) == {"decode.select.fused_blocks"}
    monkeypatch.setattr(CudaKernel, "of", _refused)
    compiled.cache_clear()
    assert used(model) == {"decode.select.fused_blocks"}
    compiled.cache_clear()
    assert used(build(2, hidden_size=2048, num_attention_heads=32)) == {"decode.select.fused_blocks"}
