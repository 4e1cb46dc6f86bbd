"""All blocks of a step in one kernel, beside the same blocks one after the other."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from flagai.kernels.cuda.nvrtc import CudaKernel
from flagai.kernels.cuda.whole_stack import Megakernel, compiled, whole_stack
from flagai.kernels.decode.block import FusedPreNormBlock
from flagai.model.block.stack import cached_blocks
from flagai.model.layer.kernel_choice import jit_kernels, only_kernels
from flagai.model.layer.paged_cache import PagedCache, PagedStep
from flagai.model.quantization import quantize
from tests import tiny
from tests.kernels.steps import decode, step_of

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


def step_over(model: Any, length: int) -> PagedStep:
    """A step of a token with so many keys, over the same pool for the same model and length."""
    torch.manual_seed(1)
    return step_of(model, (length,))


def copied(step: PagedStep, dtype: torch.dtype | None = None) -> PagedStep:
    """The same step over a pool of its own."""
    pool = PagedCache(step.num_layers, step.pool.num_slots)
    pool.keys, pool.values = (
        [None if each is None else each.to(dtype or each.dtype, copy=True) for each in pools]
        for pools in (step.pool.keys, step.pool.values)
    )
    return replace(step, pool=pool)


def one_by_one(model: Any, hidden: torch.Tensor, step: PagedStep) -> torch.Tensor:
    """What the kernels of each block make of a token."""
    for index, block in enumerate(model.blocks):
        hidden = FusedPreNormBlock(block)(hidden, step.attn_mask, cache=step.layer(index))
    return hidden


def together(model: Any, hidden: torch.Tensor, step: PagedStep) -> torch.Tensor:
    """What the kernel of all blocks makes of it."""
    return megakernel(model)(hidden, step.attn_mask, step)


def megakernel(model: Any) -> Megakernel:
    found = whole_stack(list(model.blocks), 1)
    assert found is not None
    return found


def token(width: int = WIDTH, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(1, 1, width, device="cuda", dtype=dtype)


every = pytest.mark.parametrize("bits", ["int4", "int8"])


def assert_equal(ours: PagedStep, theirs: PagedStep) -> None:
    """Both have written the same keys and values."""
    for mine, others in ((ours.pool.keys, theirs.pool.keys), (ours.pool.values, theirs.pool.values)):
        for one, other in zip(mine, others, strict=True):
            torch.testing.assert_close(one, other, atol=0.06, rtol=0.03)


@torch.inference_mode()
@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_computes_what_the_blocks_compute(layers: int, dtype: torch.dtype, bits: str | None) -> None:
    """Step after step, with an odd number of blocks too: what was told in one must be gone in the next.

    Two thread blocks share a head's keys where there are many.
    """
    model = build(layers, dtype, bits=bits)
    kernel, step = megakernel(model), step_over(model, 1000)
    for length in (1, 2, 100, 300, 900, 40, 700, 30, 1000):
        given = step_over(model, length)
        ours = PagedStep(step.pool, given.slot_mapping, given.attn_mask)
        theirs = copied(ours)
        hidden = token(dtype=dtype)
        found, wanted = kernel(hidden, ours.attn_mask, ours), one_by_one(model, hidden, theirs)
        assert (found - wanted).float().norm() < 0.02 * wanted.float().norm(), length
        assert_equal(ours, theirs)


@torch.inference_mode()
def test_a_pool_that_grows() -> None:
    """Its keys lie elsewhere then."""
    model = build(2)
    kernel, step, hidden = megakernel(model), step_over(model, 100), token()
    before = kernel(hidden, step.attn_mask, step)
    old = [*step.pool.keys, *step.pool.values]
    step.pool.grow(2 * step.pool.num_slots)
    for each in old:
        assert each is not None
        each.fill_(float("nan"))
    torch.testing.assert_close(kernel(hidden, step.attn_mask, step), before, atol=0, rtol=0)


@torch.inference_mode()
def test_narrow_blocks() -> None:
    """Up to four thread blocks share a head's keys."""
    width = 2048
    model = build(3, bits="int8", hidden_size=width, num_attention_heads=width // 64)
    kernel, step = megakernel(model), step_over(model, 1500)
    for length in (1, 20, 300, 700, 1500, 20, 1000, 1):
        given = step_over(model, length)
        ours = PagedStep(step.pool, given.slot_mapping, given.attn_mask)
        theirs, hidden = copied(ours), token(width)
        found, wanted = kernel(hidden, ours.attn_mask, ours), one_by_one(model, hidden, theirs)
        assert (found - wanted).float().norm() < 0.02 * wanted.float().norm(), length
        assert_equal(ours, theirs)


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
    hidden = token(dtype=dtype)
    hidden[..., 5] = outlier
    step = step_over(model, 21)
    found, fused = together(model, hidden, copied(step)), one_by_one(model, hidden, copied(step))
    wanted, wide = hidden.float(), copied(step, torch.float32)
    for index, block in enumerate(exact.blocks):
        wanted = block(wanted, wide.attn_mask, cache=wide.layer(index))
    ours, theirs = ((each.float() - wanted).norm() for each in (found, fused))
    assert ours < 1.3 * theirs


@torch.inference_mode()
@every
def test_what_is_no_number_stays_so(bits: str | None) -> None:
    """Nobody waits for a number that is none."""
    model = build(3, bits=bits)
    step, kernel, hidden = step_over(model, 21), megakernel(model), token()
    good = kernel(hidden, step.attn_mask, step)
    bad = hidden.clone().view(torch.int16)
    bad[..., 7] = -1
    assert kernel(bad.view(torch.bfloat16), step.attn_mask, step).isnan().all()
    torch.testing.assert_close(kernel(hidden, step.attn_mask, step), good, atol=0, rtol=0)


@torch.inference_mode()
@every
@pytest.mark.parametrize("name", ["GLMModel", "GPT2Model"])
def test_steps_of_a_model(name: str, bits: str | None) -> None:
    """Each reads what the steps before have written."""
    model, found = build(3, name=name, bits=bits), []
    for kernel in ("decode.select.megakernel_blocks", "decode.select.fused_blocks"):
        torch.manual_seed(0)
        with jit_kernels() as used, only_kernels(kernel):
            found.append(decode(model, (3, 50, 7, 9), 1, 30))
        assert used == {kernel}
    assert (found[0] - found[1]).float().norm() < 0.05 * found[1].float().norm()


@torch.inference_mode()
def test_a_recorded_step() -> None:
    """A CUDA graph computes with the token, the slots and the length that stand there when it is replayed."""
    model = build(3)
    kernel, step, hidden = megakernel(model), step_over(model, 1000), token()
    table = step.attn_mask.table
    assert table is not None
    kernel(hidden, step.attn_mask, step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = kernel(hidden, step.attn_mask, step)
    for length in (300, 20, 900):
        given = step_over(model, length)
        other = given.attn_mask.table
        assert other is not None
        hidden.copy_(token())
        table.slots[:, :length] = other.slots[:, :length]
        table.lengths.copy_(other.lengths)
        step.slot_mapping.copy_(given.slot_mapping)
        theirs = copied(step)
        graph.replay()
        wanted = one_by_one(model, hidden, theirs)
        assert (out - wanted).float().norm() < 0.02 * wanted.float().norm(), length
        assert_equal(step, theirs)


@torch.inference_mode()
@every
def test_rows_of_several_tiles(bits: str | None) -> None:
    model = build(3, name="GPT2Model", bits=bits, n_embd=2 * WIDTH, n_head=2 * HEADS, n_inner=4 * WIDTH)
    step, hidden = step_over(model, 21), token(2 * WIDTH)
    found, wanted = together(model, hidden, copied(step)), one_by_one(model, hidden, copied(step))
    assert (found - wanted).float().norm() < 0.02 * wanted.float().norm()


def test_two_threads() -> None:
    """Two models, each on a stream of its own: programs of one must not keep those of the other from meeting."""
    models = [build(2), build(2, name="GPT2Model", bits="int8")]
    with torch.inference_mode():
        steps = [step_over(model, 300) for model in models]  # by random numbers, of which there is one generator

    @torch.inference_mode()
    def computed(number: int) -> torch.Tensor:
        kernel, step = megakernel(models[number]), copied(steps[number])
        with torch.cuda.stream(torch.cuda.Stream()):
            hidden = torch.linspace(-1, 1, WIDTH, device="cuda", dtype=torch.bfloat16).view(1, 1, -1)
            for _ in range(500):
                hidden = kernel(hidden, step.attn_mask, step)
            return hidden.cpu()

    alone = [computed(number) for number in range(2)]
    with ThreadPoolExecutor(2) as threads:
        for found, wanted in zip(threads.map(computed, range(2)), alone, strict=True):
            torch.testing.assert_close(found, wanted, atol=0, rtol=0, equal_nan=True)


def _refused(*_: Any) -> Any:
    raise RuntimeError("the driver is too old")


def used(model: Any, rows: int = 1) -> set[str]:
    """The kernels of a step of so many tokens."""
    step = step_of(model, (21,) * rows)
    hidden = token(model.blocks[0].norm1.weight.numel()).expand(-1, rows, -1)
    with jit_kernels() as names:
        cached_blocks.choose(model.blocks, hidden, step.attn_mask, step)
    return names


@torch.inference_mode()
def test_others_are_computed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(2)
    assert used(model) == {"decode.select.megakernel_blocks"}
    assert used(model, 4) == {"decode.select.fused_blocks"}
    assert used(build(2, bits=None)) == {"decode.select.fused_blocks"}
    monkeypatch.setattr(CudaKernel, "of", _refused)
    compiled.cache_clear()
    assert used(build(2)) == {"decode.select.fused_blocks"}
    compiled.cache_clear()
    assert used(build(2, hidden_size=512, num_attention_heads=8)) == {"decode.select.fused_blocks"}
