"""CUDA graphs and kernels of a step on a GPU: the same answers, for every family, and memory that is given back."""

import gc
from typing import Any

import pytest
import torch

from flagai.generation import Decoding, Prompt, generate
from flagai.generation.replay import compile_ahead
from flagai.generation.replay.steps import captured_steps
from flagai.model.layer.kernel_choice import only_kernels
from flagai.model.layer.packed_row import PackedRow
from flagai.model.layer.sdpa import AttentionMask, scaled_dot_product_attention
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
    assert len(captured_steps(model)) == 1


def test_a_model_records_again_after_its_recordings_have_gone() -> None:
    writing = writer("t5")
    model = writing.model.cuda()
    wanted = generate(model, writing.prompts, writing.decoding(cuda_graphs=False))
    for _ in range(3):
        check_same(generate(model, writing.prompts, writing.decoding()), wanted)
        captured_steps(model).clear()


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


def by_kernels(model: Any) -> bool:
    """Whether all captured forward passes compute their blocks by kernels."""
    (steps,) = captured_steps(model)
    return all(any("blocks" in name for name in forward.kernels) for forward in steps.forwards.values())


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
    assert by_kernels(model)
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
        for greedy in (["decode.search_steps.greedy_step"], []):
            with only_kernels("decode.select.fused_blocks", "decode.select.fused_t5_blocks", *greedy):
                found.append(generate(model, writing.prompts, writing.decoding(**options)))
        check_same(*found, tolerance=1e-4)
        assert [row[0].finished for row in found[0]] == [row[0].finished for row in found[1]]
    assert captured_steps(model)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_draw_and_keep_beams_as_torch_does(kind: str) -> None:
    """Over the same steps in float32, where no scores are equal."""
    writing = writer(kind)
    model, drawn = writing.model.to("cuda"), {"do_sample": True, "seed": 3, "num_return_sequences": 3}
    searches: list[dict[str, Any]] = [drawn, {**drawn, "temperature": 1.5, "top_k": 9, "top_p": 0.8}]
    if kind != "glm-blanks":
        searches.append({"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.7})
    for options in searches:
        found = []
        for kernels in (["decode.search_steps.drawing_step", "decode.search_steps.beam_step"], []):
            with only_kernels(*kernels):
                found.append(generate(model, writing.prompts, writing.decoding(**options, max_new_tokens=12)))
        for ours, theirs in zip(*found, strict=True):
            assert [answer.pieces for answer in ours] == [answer.pieces for answer in theirs]
            assert [answer.finished for answer in ours] == [answer.finished for answer in theirs]


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
    assert by_kernels(model)
    model.float()
    exact = run("exact", False)
    assert (fast - exact).abs().max() <= 2 * (plain - exact).abs().max() + 0.01


@pytest.mark.parametrize("kind", ["gpt2", "glm", "glm-blanks", "bert"])
def test_prompts_that_are_read_by_replay(kind: str) -> None:
    """Texts of other lengths, more and fewer, than when the call was recorded."""
    writing = writer(kind)
    model = writing.model.cuda()
    for numbers in ((0, 1), (2, 3), (1, 3, 2), (0,), (3, 1, 2, 0), (2,)):
        prompts = [writing.prompts[number] for number in numbers]
        wanted = generate(model, prompts, writing.decoding(cuda_graphs=False))
        check_same(generate(model, prompts, writing.decoding()), wanted)
    assert any(steps.prompts for steps in captured_steps(model))


@torch.inference_mode()
@pytest.mark.parametrize("count", [64, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_packed_attention_with_empty_texts(count: int, causal: bool) -> None:
    """As captured calls have them, in a graph; a short row and one for flash attention."""
    query, key, value = torch.randn(3, 1, 4, count, 64, device="cuda", dtype=torch.bfloat16)
    starts = torch.tensor([0, 3, 4, 30, 30, 30, count], dtype=torch.int32, device="cuda")
    mask = AttentionMask(packed=PackedRow((count,)), causal=causal, cu_seqlens=starts, static=True)
    wanted = scaled_dot_product_attention.plain(query, key, value, mask)
    scaled_dot_product_attention(query, key, value, mask)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = scaled_dot_product_attention(query, key, value, mask)
    graph.replay()
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0.03)
