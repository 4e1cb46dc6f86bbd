"""The same numbers on an accelerator: every class, every type, padded rows, cached steps."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.kernels.packed import attention as encoding
from flagai.model.layer import PackedRow
from flagai.model.layer.sdpa import scaled_dot_product_attention
from flagai.model.predictor import prefetch as windows
from flagai.model.predictor.embedding import packed_means
from tests.tiny import EVERY, batch, build, ids, label

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


def to_cuda(arguments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cuda() for name, tensor in arguments.items()}


@torch.no_grad()
@pytest.mark.parametrize(("name", "changes"), EVERY, ids=label)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15), (torch.float16, 0.03)], ids=str
)
def test_equals_the_cpu(
    name: str, changes: dict[str, Any], dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    model, arguments = build(name, **changes), batch(name, **changes)
    model.save_pretrained(tmp_path)
    moved = type(model).from_pretrained(tmp_path, device="cuda", dtype=dtype)
    assert moved.device.type == "cuda"
    expected, got = model(**arguments), moved(**to_cuda(arguments))
    for key in ("logits", "hidden_states", "loss"):
        if key in expected:
            difference = (got[key].cpu().float() - expected[key]).abs() / (1 + expected[key].abs())
            assert difference.max() <= tolerance, key


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_that_see_nothing_are_finite(dtype: torch.dtype) -> None:
    model = build("GPT2Model").cuda().to(dtype)
    tokens = ids(37, 2, 9)
    tokens[0, :4] = 0  # padding on the left: its rows see nothing
    assert model(tokens.cuda())["logits"].isfinite().all()


@torch.no_grad()
def test_cached_steps_equal_the_whole() -> None:
    model, tokens = build("GPT2Model").cuda(), ids(37, 2, 9).cuda()
    cache = model.new_cache(16)
    steps = [model(tokens[:, i : i + 1], cache=cache)["logits"] for i in range(9)]
    torch.testing.assert_close(torch.cat(steps, 1), model(tokens)["logits"], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_t5_in_float16_survives_what_overflows_it(tmp_path: Path) -> None:
    model = build("T5Model", feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    for stack in (model.encoder, model.decoder):
        for block in stack.blocks:
            block.feed_forward.down.weight.mul_(1e6)
    model.save_pretrained(tmp_path)
    arguments = batch("T5Model")
    got = type(model).from_pretrained(tmp_path, device="cuda", dtype=torch.float16)(**to_cuda(arguments))
    assert got["logits"].isfinite().all()
    assert (got["logits"].cpu().float() - model(**arguments)["logits"]).abs().max() < 0.1


PACKED = PackedRow((7, 3, 3, 1, 17, 5))
# Heads of 8, which flash attention for packed texts takes.
WIDE = {"hidden_size": 24, "intermediate_size": 40}


def noted(suits: Callable[..., bool], calls: list[int]) -> Callable[..., bool]:
    """The condition of an implementation, which notes when it holds."""
    return lambda *args, **kwargs: suits(*args, **kwargs) and not calls.append(1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15), (torch.float16, 0.03)], ids=str
)
def test_packed_texts_equal_padded_ones(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    counted = [
        replace(each, suits=noted(each.suits, calls)) if each.compute is encoding.attend_packed else each
        for each in scaled_dot_product_attention.implementations
    ]
    monkeypatch.setattr(scaled_dot_product_attention, "implementations", counted)
    model, tokens = build("BertForMaskLM", **WIDE), ids(31, 1, PACKED.total)
    expected = model(PACKED.pad(tokens), attention_mask=PACKED.valid().long())["logits"]
    packed = model.cuda().to(dtype)(tokens.cuda(), lengths=PACKED)["logits"]
    assert len(calls) == (0 if dtype is torch.float32 else 2)
    for got, text, length in zip(PACKED.split(packed), expected, PACKED.lengths, strict=True):
        difference = (got.cpu().float() - text[:length]).abs() / (1 + text[:length].abs())
        assert difference.max() <= tolerance


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_t5_equals_padded(dtype: torch.dtype) -> None:
    model, tokens = build("T5Model"), ids(41, 1, PACKED.total)
    expected = model.encode(PACKED.pad(tokens), PACKED.valid().long())
    packed = model.cuda().to(dtype).encode(tokens.cuda(), lengths=PACKED)
    for got, text, length in zip(PACKED.split(packed), expected, PACKED.lengths, strict=True):
        assert (got.cpu().float() - text[:length]).abs().max() <= (1e-4 if dtype is torch.float32 else 0.2)


def test_embeddings_equal_the_cpu() -> None:
    model: Any = build("BertForEmbedding", **WIDE)
    texts = [ids(31, length, seed=length).tolist() for length in (5, 1, 40, 12, 12, 3)]
    expected = packed_means(model, texts)
    found = packed_means(model.cuda(), texts)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_embeddings_by_kernels_are_as_near_as_torch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows and packs, some of them with a text that is too long for the kernel of short ones."""
    monkeypatch.setattr(windows, "GPU_TEXTS", 100)
    model: Any = build("BertForEmbedding", hidden_size=96, intermediate_size=128, max_position_embeddings=200)
    texts = [ids(31, 1 + (seed * 37) % 128, seed=seed).tolist() for seed in range(249)] + [ids(31, 150).tolist()]
    exact = packed_means(model, texts)
    model.cuda().to(dtype)
    fast = packed_means(model, texts)
    monkeypatch.setattr(encoding, "has_triton_half", lambda *_: False)
    plain = packed_means(model, texts)
    assert not torch.equal(fast, plain), "the kernels have been used"
    assert (fast - exact).abs().mean() <= 1.2 * (plain - exact).abs().mean()
    assert (fast - exact).abs().max() <= 2 * (plain - exact).abs().max()


def test_the_host_does_not_wait_for_packs() -> None:
    model: Any = build("BertForEmbedding", hidden_size=24, intermediate_size=40, max_position_embeddings=200)
    model.cuda().to(torch.bfloat16)

    def waits(count: int) -> int:
        texts = [ids(31, 1 + (seed * 37) % 128, seed=seed % 50).tolist() for seed in range(count)]
        packed_means(model, texts)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                packed_means(model, texts)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return len(caught)

    assert waits(4000) <= waits(500)
