"""Devices that lack types: no float64 (Apple, Ascend), no bfloat16 (GPUs before Ampere, macOS 13), no Triton."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flagai.device_support import has_bfloat16, has_float64, widest_float
from flagai.errors import InputError
from flagai.kernels.hardware import has_triton
from flagai.model.device import usable_dtype
from tests.portability.processes import run

PROGRAM = """
import logging, sys
from pathlib import Path
import torch
from tests.portability.fake_device import install
install(torch.float64, torch.bfloat16)
import flagai
from flagai.errors import InputError
from flagai.model.device import all_devices, best_device
from tests import folders

home, said = Path(sys.argv[1]), []
logging.getLogger("flagai.model.device").addFilter(said.append)
assert best_device().type == "npu" and all_devices() == ["cpu", "npu:0"]
folders.write(home, "GLM-large-ch", "GLMForSeq2Seq", hidden_size=96)
folders.write(home, "RoBERTa-base-ch", "BertForSequenceLabelingCRF", class_num=5)


def both(task, name, **options):
    return [flagai.load(task, name, download_path=home, device=device, **options) for device in ("cpu", "npu")]


for options in ({}, {"quantize": "int4"}):
    cpu, npu = (each.predictor for each in both("writing", "GLM-large-ch", **options))
    assert npu.model.device.type == "npu" and npu.memory is None
    drawn, beams, contrastive = {"do_sample": True, "top_k": 5, "top_p": 0.9}, {"num_beams": 3}, {"penalty_alpha": 0.6}
    for decoding in ({}, drawn, {**beams, "length_penalty": 0.7}, {**contrastive, "top_k": 4}):
        one, two = (each.write(["今天天气", "北京"], max_new_tokens=6, seed=3, **decoding) for each in (cpu, npu))
        assert one == two, decoding
cpu, npu = both("ner-crf", "RoBERTa-base-ch", class_num=5)
texts, labels = ["我在北京看书。" * 3, "上海"], ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
one, two = ([[tuple(each) for each in found] for found in ner(texts, labels=labels)] for ner in (cpu, npu))
assert one == two and any(one), (one, two)

for dtype in ("bfloat16", "float64"):
    try:
        flagai.load("writing", "GLM-large-ch", download_path=home, device="npu", dtype=dtype)
        raise SystemExit(dtype)
    except InputError as error:
        assert f"npu does not compute in {dtype}" in str(error), error
model = cpu = flagai.load("writing", "GLM-large-ch", download_path=home, device="cpu", dtype="bfloat16").model
model.save_pretrained(home / "halves")
said.clear()
found = type(model).from_pretrained(home / "halves", device="npu")
assert found.backbone.embed.token.weight.dtype == torch.float16
assert "npu does not compute in bfloat16, which the weights have: they become float16" in said[0].getMessage()
print("done")
"""


def test_a_device_without_float64_and_bfloat16_answers_as_the_cpu(tmp_path: Path) -> None:
    """torch's backend in Python stands for Ascend's: nothing on it is float64 or bfloat16, or mixed with the CPU's."""
    assert run("", tmp_path, PROGRAM, str(tmp_path)).split() == [b"done"]


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A Turing GPU, as far as torch tells its capability."""
    for cached in (has_bfloat16, has_triton):
        cached.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (7, 5))
    yield torch.device("cuda", 0)
    for cached in (has_bfloat16, has_triton):
        cached.cache_clear()


def test_gpus_before_ampere_take_float16_and_plain_torch(
    old_gpu: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    assert not has_bfloat16(old_gpu)
    assert not has_triton(old_gpu)
    assert has_float64(old_gpu)
    with pytest.raises(InputError, match=r"cuda:0 does not compute in bfloat16 itself. Choose dtype='float16'"):
        usable_dtype(old_gpu, torch.bfloat16)
    assert usable_dtype(old_gpu, None, torch.bfloat16) == torch.float16
    assert "dtype='float32' keeps their range" in caplog.text
    assert usable_dtype(old_gpu, None, torch.float16) is None
    assert usable_dtype(old_gpu, torch.float32, torch.bfloat16) == torch.float32


@pytest.mark.parametrize(("new", "halves"), [(True, True), (False, False)])
def test_apple_s_devices(monkeypatch: pytest.MonkeyPatch, new: bool, halves: bool) -> None:
    has_bfloat16.cache_clear()
    device = torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: new)
    assert has_bfloat16(device) is halves
    assert widest_float(device) == torch.float32
    with pytest.raises(InputError, match=r"mps does not compute in float64 itself. Choose dtype='float32'"):
        usable_dtype(device, torch.float64)
    has_bfloat16.cache_clear()
