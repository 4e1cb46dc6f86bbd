"""Several steps by the kernels give what the model's own blocks give."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from flagai.kernels.decode import block, t5_block
from flagai.model.layer.kernel_choice import jit_kernels, only_kernels
from flagai.model.layer.paged_cache import PagedCache
from flagai.model.quantization import quantize
from tests.kernels.conftest import DEVICE
from tests.kernels.steps import decode, run, step_of
from tests.tiny import GATED, build

pytestmark = [
    pytest.mark.skipif(DEVICE != "cpu", reason="on a GPU, kernels take half precision: see tests/gpu"),
    pytest.mark.usefixtures("device"),  # reads kernels for the interpreter
]
FUSED, T5 = "decode.select.fused_blocks", "decode.select.fused_t5_blocks"
WIDE = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "spell_length": None}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes float32, in which kernels and blocks differ little."""
    for module in (block, t5_block):
        monkeypatch.setattr(module, "has_triton_half", lambda *_: True)


@pytest.mark.parametrize(
    ("name", "changes", "how", "lanes"),
    [
        ("GPT2Model", {}, None, 3),
        ("GLMModel", WIDE, "int8", 1),
        pytest.param("GLMModel", WIDE, "int4", 2, marks=pytest.mark.slow),
    ],
)
def test_decoding(name: str, changes: dict[str, Any], how: str | None, lanes: int) -> None:
    """The kernels read what they wrote in earlier steps, and what the plain blocks wrote of the prompt."""
    model = build(name, **changes)
    if how is not None:
        quantize(model, how)
    found = []
    for names in ((FUSED,), ()):
        torch.manual_seed(0)
        with torch.inference_mode(), jit_kernels() as used, only_kernels(*names):
            found.append(decode(model, (3, 5, 7, 9), lanes, 3))
        assert used == set(names)
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-3)


def test_a_text_of_one_token() -> None:
    """No prompt has been read: the pool is empty."""
    model, found = build("GPT2Model"), []
    for names in ((FUSED,), ()):
        torch.manual_seed(0)
        step = step_of(model, (1,))
        pool = PagedCache(step.num_layers, step.pool.num_slots)
        with torch.inference_mode(), jit_kernels() as used, only_kernels(*names):
            found.append(run(model, replace(step, pool=pool), [3], [0]))
        assert used == set(names)
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", [GATED, {}], ids=["gated", "relu"])
def test_t5(changes: dict[str, Any]) -> None:
    model = build("T5Model", num_decoder_layers=2, **changes)
    found = []
    for names in ((T5,), ()):
        torch.manual_seed(0)
        step = step_of(model, (9, 1, 20))
        with torch.inference_mode(), jit_kernels() as used, only_kernels(*names):
            found.append(run(model, step, [3, 4, 5], [8, 0, 19]))
        assert used == set(names)
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
