"""CUDA graphs and kernels of a step on a GPU: the same answers, for every family, and memory that is given back."""

import gc
from typing import Any

import pytest
import torch
from torch import nn

from flagai.generation import Decoding, Prompt, generate
from flagai.generation.replay import compile_ahead
from flagai.generation.replay.step_pool import step_pool
from flagai.kernels.decode import ops as kernels
from flagai.kernels.decode.common import Slots
from flagai.model.layer.kernel_choice import only_kernels
from tests import tiny
from tests.generation.writers import KINDS, PAIRS, SEARCHES, writer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels make all steps, on a machine where they have to be compiled first, too."""
    monkeypatch.setattr(compile_ahead, "PATIENCE", 100)


def check_same(got: Any, wanted: Any, tolerance: float = 1e-3) -> None:
    for ours, theirs in zip(got, wanted, strict=True):
        assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
        scores = [answer.score for answer in theirs]
        assert [answer.score for answer in ours] == pytest.approx(scores, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize(("kind", "search"), PAIRS)
def test_graphs_write_what_steps_write(kind: str, search: str) -> None:
    writing = writer(kind)
    model = writing.model.cuda()
    options: dict[str, Any] = {**SEARCHES[search], "max_new_tokens": 12}
    wanted = generate(model, writing.prompts, writing.decoding(**options, cuda_graphs=False))
    for _ in range(2):
        check_same(generate(model, writing.prompts, writing.decoding(**options)), wanted)
    assert len(step_pool(model).ready) == 1


def test_a_model_records_again_after_its_recordings_have_gone() -> None:
    writing = writer("t5")
    model = writing.model.cuda()
    wanted = generate(model, writing.prompts, writing.decoding(cuda_graphs=False))
    for _ in range(3):
        check_same(generate(model, writing.prompts, writing.decoding()), wanted)
        step_pool(model).ready.clear()


def test_two_models_and_many_sizes_at_once() -> None:
    both = [writer("gpt2", seed) for seed in range(2)]
    for writing in both:
        writing.model.cuda()
    wanted = [
        generate(writing.model, writing.prompts[:size], writing.decoding(cuda_graphs=False))
        for size in range(1, 5)
        for writing in both
    ]
    for _ in range(2):
        got = [
            generate(writing.model, writing.prompts[:size], writing.decoding())
            for size in range(1, 5)
            for writing in both
        ]
        for ours, theirs in zip(got, wanted, strict=True):
            check_same(ours, theirs)


def test_memory_goes_with_the_model() -> None:
    def used(rounds: int) -> int:
        for _ in range(rounds):
            writing = writer("gpt2")
            generate(writing.model.cuda(), writing.prompts, writing.decoding())
            del writing
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    used(2)  # libraries keep their work space
    before = used(1)
    assert used(3) <= before


GLM = ("GLMModel", {"hidden_size": 192, "num_attention_heads": 4, "max_sequence_length": 100, "spell_length": None})
T5 = ("T5Model", {"d_model": 192, "d_kv": 32, "d_ff": 320, "num_heads": 3})
GATED = ("T5Model", {**T5[1], **tiny.GATED})
WIDE = {"glm": GLM, "t5": T5, "t5-gated": GATED}


def wide(kind: str, dtype: torch.dtype) -> Any:
    """A model that the kernels take."""
    name, sizes = WIDE[kind]
    return tiny.build(name, **sizes, vocab_size=300).cuda().to(dtype)


@pytest.mark.parametrize(
    "lanes", [{}, {"num_beams": 4}, {"do_sample": True, "num_return_sequences": 2, "seed": 4}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", WIDE)
def test_kernels_score_as_torch_does(kind: str, dtype: torch.dtype, lanes: dict[str, Any]) -> None:
    """Both follow their own answers, which rounding may separate; so the scores are compared."""
    model, prompts = wide(kind, dtype), [Prompt((3, 50, 7, 9)), Prompt((4, 8))]
    fast, plain = (
        generate(model, prompts, Decoding(max_new_tokens=24, **lanes, cuda_graphs=graphs)) for graphs in (True, False)
    )
    assert all(any("blocks" in name for name in step.kernels) for step in step_pool(model).ready)
    same = [ours[0].ids[:4] == theirs[0].ids[:4] for ours, theirs in zip(fast, plain, strict=True)]
    assert any(same)
    for ours, theirs in zip(fast, plain, strict=True):
        if ours[0].ids == theirs[0].ids:
            assert ours[0].score == pytest.approx(theirs[0].score, rel=0.08, abs=0.3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_kernels_choose_as_torch_does(kind: str, dtype: torch.dtype) -> None:
    """Over the same steps, rows end at different times, and the best scores are often equal."""
    writing = writer(kind)
    model = writing.model.to("cuda", dtype)
    for stops in ((2, 17), tuple(range(2, 30, 4)), (model.config.vocab_size - 1,)):
        options: dict[str, Any] = {"stop_token_ids": stops, "max_new_tokens": 24 if kind != "glm-blanks" else 12}
        found = []
        for greedy in (["decode.greedy.greedy_step"], []):
            with only_kernels("decode.select.fused_blocks", "decode.select.fused_t5_blocks", *greedy):
                found.append(generate(model, writing.prompts, writing.decoding(**options)))
        check_same(*found, tolerance=1e-4)
        assert [row[0].finished for row in found[0]] == [row[0].finished for row in found[1]]
    assert not any(trial.failed for trial in step_pool(model).compiling.values())
    assert step_pool(model).compiling


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", WIDE)
def test_a_step_of_kernels_equals_torch(kind: str, dtype: torch.dtype) -> None:
    """The same ids are forced on both, so every logit can be compared; float32 says what is right."""
    model, prompt, forced = wide(kind, dtype), Prompt((3, 50, 7, 9)), tiny.ids(300, 12).tolist()
    seen: dict[str, list[torch.Tensor]] = {"fast": [], "plain": [], "exact": []}

    def run(name: str, graphs: bool) -> torch.Tensor:
        def follow(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen[name].append(scores.float().clone())
            wanted = torch.full_like(scores, -torch.inf)
            wanted[..., forced[len(seen[name]) - 1]] = 0
            return wanted

        decoding = Decoding(max_new_tokens=len(forced), cuda_graphs=graphs)
        generate(model, [prompt], decoding, logits_processors=[follow])
        return torch.stack(seen[name])

    fast, plain = run("fast", True), run("plain", False)
    assert all(any("blocks" in name for name in step.kernels) for step in step_pool(model).ready)
    model.float()
    exact = run("exact", False)
    assert (fast - exact).abs().max() <= 2 * (plain - exact).abs().max() + 0.01


@torch.inference_mode()
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "pdl"),
    [(1, 768, 2304, True), (1, 16384, 512, False), (1, 104, 70, True), (3, 104, 70, False), (16, 4096, 4096, True)],
)
def test_products_equal_torch(rows: int, inputs: int, outputs: int, pdl: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, device="cuda", dtype=torch.bfloat16)
    norm = nn.LayerNorm(inputs, device="cuda", dtype=torch.bfloat16)
    norm.weight.normal_()
    norm.bias.normal_()
    tokens = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    residual = torch.randn(rows, outputs, device="cuda", dtype=torch.bfloat16)
    for given in ({"norm": norm, "activation_name": "gelu_new"}, {"residual": residual}):
        got = kernels.linear_act_residual(tokens, layer, **given, pdl=pdl).float()  # type: ignore[arg-type]
        wanted = kernels.linear_act_residual_reference(tokens, layer, **given).float()  # type: ignore[arg-type]
        assert (got - wanted).abs().max() <= 0.02 * (1 + wanted.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize(("batch", "lanes"), [(1, 1), (1, 4), (3, 2)])
@pytest.mark.parametrize("width", [64, 80])
def test_projection_and_attention_equal_torch(batch: int, lanes: int, width: int) -> None:
    torch.manual_seed(0)
    heads, capacity, size = 4, 384, 320
    layers = [nn.Linear(size, heads * width, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    norm = nn.LayerNorm(size, device="cuda", dtype=torch.bfloat16)
    tokens = torch.randn(batch * lanes, size, device="cuda", dtype=torch.bfloat16)
    buffers = torch.randn(2, batch, heads, capacity, width, device="cuda", dtype=torch.bfloat16)
    now = torch.arange(lanes, device="cuda") + 300
    ours, theirs = (Slots(*buffers.clone(), now) for _ in range(2))
    query = kernels.qkv_to_cache(tokens, norm, *layers, ours)
    wanted = kernels.qkv_to_cache_reference(tokens, norm, *layers, theirs)
    for got, plain in ((query, wanted), (ours.keys, theirs.keys), (ours.values, theirs.values)):
        torch.testing.assert_close(got, plain, atol=0.03, rtol=0.03)
    seen = torch.rand(batch, lanes, capacity, device="cuda") > 0.5
    seen[:, :, 300:] = False
    seen[:, torch.arange(lanes), now] = True
    got = kernels.decode_attention(wanted, theirs, seen, None)
    torch.testing.assert_close(
        got, kernels.decode_attention_reference(wanted, theirs, seen, None), atol=0.03, rtol=0.03
    )
