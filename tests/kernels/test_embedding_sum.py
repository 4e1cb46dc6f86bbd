"""Embeddings that one kernel adds up are those of the tables."""

from typing import Any

import pytest
import torch
from torch import nn

from flagai.generation import generate
from flagai.generation.replay import compile_ahead, cuda_graph
from flagai.generation.replay.step_pool import step_pool
from flagai.kernels.decode import embeddings as embedding_sum
from flagai.kernels.decode.embeddings import fused_embeddings
from flagai.model.layer import Embeddings
from flagai.model.layer.embedding import embed
from flagai.model.layer.operation import jit_kernels
from flagai.model.layer.quantized_embedding import QuantizedEmbedding
from tests.generation.writers import writer
from tests.kernels.conftest import DEVICE
from tests.kernels.test_steps import EveryTime

# The interpreter cuts bfloat16 off, where everybody else rounds.
TYPES = [torch.bfloat16, torch.float16] if DEVICE == "cuda" else [torch.float16, torch.float32]


@pytest.mark.parametrize("blocks", [0, 9])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@torch.inference_mode()
def test_sums(dtype: torch.dtype, blocks: int, device: torch.device) -> None:
    """A width of more than one program, and positions that lie apart."""
    torch.manual_seed(0)
    embeddings = Embeddings(50, 1100, positions=20, block_positions=blocks).to(device, dtype).eval()
    tokens = torch.randint(50, (3, 2), device=device)
    places = torch.randint(9, (3, 2, 2), device=device)
    named: dict[str, Any] = {"position_ids": places[:, 0]} | ({"block_position_ids": places[:, 1]} if blocks else {})
    got = fused_embeddings(embeddings, tokens, named["position_ids"], named.get("block_position_ids"), None)
    torch.testing.assert_close(got, embeddings(tokens, **named), atol=0, rtol=0)
    embeddings.token = QuantizedEmbedding.of(embeddings.token)
    got = fused_embeddings(embeddings, tokens, named["position_ids"], named.get("block_position_ids"), None)
    torch.testing.assert_close(got, embeddings(tokens, **named), atol=0, rtol=0)


@pytest.mark.skipif(DEVICE != "cpu", reason="on a GPU, kernels take half precision: see tests/gpu")
@pytest.mark.parametrize("kind", ["gpt2", "glm-blanks", "bert", "t5"])
def test_whole_answers(kind: str, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    monkeypatch.setattr(cuda_graph, "recorder_for", lambda _: EveryTime())
    monkeypatch.setattr(cuda_graph, "can_record", lambda _: device.type == "cpu")
    monkeypatch.setattr(compile_ahead, "PATIENCE", 100)
    monkeypatch.setattr(embedding_sum, "has_triton_half", lambda *_: True)
    writing = writer(kind)
    wanted = generate(writing.model, writing.prompts[:2], writing.decoding(cuda_graphs=False))
    got = generate(writing.model, writing.prompts[:2], writing.decoding())
    used = ["decode.embeddings.fused_embeddings" in step.kernels for step in step_pool(writing.model).ready]
    assert used == [kind in ("gpt2", "glm-blanks")]
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours[0].pieces == theirs[0].pieces
        assert ours[0].score == pytest.approx(theirs[0].score, abs=1e-4)


@torch.inference_mode()
def test_tables_that_somebody_has_changed_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_sum, "has_triton_half", lambda *_: True)
    model, ids = writer("gpt2").model, torch.zeros(1, 2, dtype=torch.long)

    def taken() -> bool:
        with jit_kernels():
            return embed.choose(model.embed, ids, ids, None, None) is fused_embeddings

    assert taken()
    for module in model.embed.modules():
        handle = module.register_forward_hook(lambda *_: None)
        assert not taken()
        handle.remove()
    assert taken()
    model.embed.token = QuantizedEmbedding.of(model.embed.token)
    assert taken()
    model.embed.token = nn.Embedding(37, 16)
    assert not taken()
