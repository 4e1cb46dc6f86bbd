"""Steps on a CPU with little of Python in between write what the blocks themselves write."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.generation import Decoding, Prompt, generate
from flagai.kernels.cpu.decode_block import CpuDecodeBlock, fused_stack
from flagai.model.gpt2_model import GPT2Model
from flagai.model.layer.kernel_choice import only_kernels
from tests.generation.writers import GRID, SEARCHES, writer

GPT2 = {"vocab_size": 300, "n_embd": 192, "n_layer": 2, "n_head": 3, "n_positions": 60}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every step that a lean block has made."""
    made: list[int] = []
    call = CpuDecodeBlock.__call__

    def counted(self: CpuDecodeBlock, hidden: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        made.append(hidden.shape[0] * hidden.shape[1])
        return call(self, hidden, *arguments, **options)

    monkeypatch.setattr(CpuDecodeBlock, "__call__", counted)
    return made


@pytest.mark.parametrize(("kind", "search"), GRID)
def test_lean_steps_write_the_same(kind: str, search: str, calls: list[int]) -> None:
    writing = writer(kind)
    prompts = writing.prompts[:2]  # with six beams of each, few rows
    found = generate(writing.model, prompts, writing.decoding(**SEARCHES[search]))
    used = len(calls)
    assert bool(used) == (kind not in ("bert", "t5"))  # those are made of other bricks
    with only_kernels():
        wanted = generate(writing.model, prompts, writing.decoding(**SEARCHES[search]))
    assert len(calls) == used
    for ours, theirs in zip(found, wanted, strict=True):
        assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
        assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], abs=1e-4)


@pytest.mark.parametrize("layout", ["huggingface", "flagai"])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_queries_keys_and_values_are_one_product_where_they_are_one_matrix(
    layout: str, dtype: str | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    drawn = GPT2Model(GPT2Model.config_class.from_dict(GPT2))
    drawn.init_weights()
    drawn.eval()
    (drawn.half() if dtype else drawn).save_pretrained(tmp_path, layout=layout)
    model = GPT2Model.from_pretrained(tmp_path, dtype=dtype)
    stack = fused_stack(model.blocks)
    assert stack is not None
    # A cast gives every parameter memory of its own.
    assert [len(block.projections) for block in stack.blocks] == [3 if dtype else 1] * 2
    torch.set_num_threads(2)
    try:
        prompts, decoding = [Prompt((7, 8, 9, 11, 13))], Decoding(max_new_tokens=8)
        fast = generate(model, prompts, decoding)[0][0]
        with only_kernels():
            plain = generate(model, prompts, decoding)[0][0]
    finally:
        torch.set_num_threads(1)
    assert fast.ids == plain.ids
    assert fast.score == pytest.approx(plain.score, abs=1e-3)


def test_changed_blocks_compute_themselves() -> None:
    model = GPT2Model(GPT2Model.config_class.from_dict(GPT2)).eval()
    assert fused_stack(model.blocks)
    hook = model.blocks[1].feed_forward.up.register_forward_hook(lambda *_: None)
    assert not fused_stack(model.blocks)
    hook.remove()
    assert fused_stack(model.blocks)
    up = model.blocks[1].feed_forward.up
    up.forward = up.forward  # as Accelerate wraps it
    assert not fused_stack(model.blocks)
    del up.forward
    assert fused_stack(model.blocks)
    assert not fused_stack(model.train().blocks)
    assert not fused_stack(model.eval().bfloat16().blocks)
    model.float().blocks[0].attention.q = torch.nn.Linear(192, 192)
    assert not fused_stack(model.blocks)
