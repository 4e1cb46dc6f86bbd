"""Batches that other processes make, and compiled blocks: the same losses as without."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flagai.kernels.compiled import blocks as module
from flagai.kernels.compiled.blocks import CompiledMask, FusedPostNorm
from flagai.kernels.packed.attention_autograd import length_classes
from flagai.model.block import compile as compiling
from flagai.model.block.compile import compile_blocks
from flagai.model.layer import PackedRow
from flagai.model.layer.sdpa import AttentionMask
from flagai.train.batches import load_batches, worker_count
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from tests import folders
from tests.train import data

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
pytest.importorskip("accelerate")


def losses(folder: Path, task: str, out: str, **more: Any) -> list[float]:
    recipe = Recipe(epochs=2, batch_tokens=64, learning_rate=1e-2, accumulate=2, **more)
    finetune(task, "RoBERTa-base-ch", folder / f"{task}.jsonl", folder / out, model_dir=folder, recipe=recipe)
    lines = (folder / out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line).get("loss") for line in lines]


@pytest.mark.parametrize(("task", "packing"), [("ner", True), pytest.param("masklm", False, marks=pytest.mark.slow)])
def test_batches_from_other_processes_are_the_same(tmp_path: Path, task: str, packing: bool) -> None:
    data.home(tmp_path, "RoBERTa-base-ch")
    data.write(tmp_path, task)
    one, two = (losses(tmp_path, task, f"with-{count}", workers=count, packing=packing) for count in (0, 2))
    assert one == two


def test_batches_come_in_order_and_leave_random_numbers_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    made = load_batches(lambda indices, seed: {"input_ids": torch.tensor([*indices, seed])}, [([3, 4], 7), ([1], 8)], 2)
    assert [batch["input_ids"].tolist() for batch in made] == [[3, 4, 7], [1, 8]]
    assert torch.equal(torch.rand(1), expected)


def test_who_makes_batches() -> None:
    assert worker_count(torch.device("cpu"), None) == 0
    assert worker_count(torch.device("cpu"), 3) == 3


@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_share_code_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    settings = {"class_num": 3, **NO_DROPOUT}
    plain, compiled = (folders.model("RoBERTa-base-ch", "BertForSequenceLabeling", **settings) for _ in range(2))
    compiled.load_state_dict(plain.state_dict())
    compile_it = nn.Module.compile
    # The real back end needs a C++ compiler and half a minute; what is tested is which code is compiled how often.
    monkeypatch.setattr(nn.Module, "compile", lambda self, **more: compile_it(self, backend="aot_eager", **more))
    compile_blocks(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    graphs = []
    # Six texts have seven offsets: a number that no other size is, which the compiler would take to be the same.
    for lengths in ([9, 7, 3, 2, 2, 1], [12, 5], [8, 8, 8, 2], [30]):
        ids = torch.randint(1, 100, (1, sum(lengths)))
        batch = {"input_ids": ids, "segment_ids": torch.zeros_like(ids), "labels": ids % 3}
        found = [model(**batch, lengths=PackedRow(tuple(lengths)))["loss"] for model in (plain, compiled)]
        torch.testing.assert_close(found[1], found[0])
        found[1].backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] == graphs[2] >= graphs[3] - 1, "other lengths were compiled again"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ours", [pytest.param(False, marks=pytest.mark.slow), True], ids=["flash", "ours"])
def test_blocks_are_one_graph_with_the_kernel_for_packed_texts(monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    """As on a GPU: without memory, the kernel has shapes only, but is traced all the same."""
    from torch._dynamo.utils import counters

    compile_it = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **more: compile_it(self, backend="aot_eager", fullgraph=True, **more)
    )

    class OnGpu(CompiledMask):
        def __init__(self, mask: AttentionMask, device: torch.device) -> None:
            super().__init__(mask, device)
            self.max_seqlen, self.classes = "short", length_classes(mask.packed) if ours else None

    monkeypatch.setattr(module, "CompiledMask", OnGpu)
    with torch.device("meta"):
        model = folders.model("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=3, hidden_size=96, **NO_DROPOUT)
    model = model.to("meta", torch.bfloat16).train()
    compile_blocks(model)
    torch._dynamo.reset()
    counters.clear()
    # Seven offsets and 25 positions: numbers that are no other size here, which the compiler would take to be the same.
    for lengths in ([9, 7, 3, 2, 2, 2], [12, 5], [8, 8, 8, 2], [30]):
        row = PackedRow(tuple(lengths))
        hidden = torch.empty(1, sum(lengths), model.config.hidden_size, device="meta", dtype=torch.bfloat16)
        offsets = torch.empty(len(lengths) + 1, dtype=torch.int32, device="meta")
        model.model.blocks(hidden.requires_grad_(), AttentionMask(packed=row, cu_seqlens=offsets)).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.filterwarnings("ignore")
def test_blocks_that_cannot_be_compiled_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("there is no C++ compiler")

    def said() -> list[str]:
        return [record.message for record in caplog.records if record.name == compiling.logger.name]

    model = folders.model("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=3, **NO_DROPOUT).eval()
    batch = {"input_ids": torch.arange(1, 9)[None]}
    plain = model(**batch)["logits"]
    compile_it = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **more: compile_it(self, backend=broken, **more))
    torch._dynamo.reset()
    compile_blocks(model)
    with pytest.raises(RuntimeError):
        model.model.blocks[0](torch.zeros(1, 2, 3), AttentionMask())
    assert not said(), "the input did not fit"
    for found in (torch.no_grad()(lambda: model(**batch)["logits"])() for _ in range(2)):
        torch.testing.assert_close(found, plain)
    assert len(said()) == len(model.model.blocks) + 1, "each block and the end of the embeddings say it once"
    assert all("no C++ compiler" in message for message in said())
    with pytest.raises(Exception, match=r"no C\+\+ compiler"):
        torch.compile(lambda values: values + 1, backend=broken)(torch.ones(2))


def test_who_listens_to_projections_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined products know nothing of hooks, nor of layers that were exchanged after the blocks were compiled."""
    monkeypatch.setattr(module, "compile_module", lambda _: None)
    model = folders.model("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=3, **NO_DROPOUT).eval()
    plain = model(input_ids=torch.arange(1, 9)[None])["logits"]
    compile_blocks(model)
    first, second = (block.attention for block in list(model.model.blocks)[:2])
    heard: list[torch.Size] = []
    first.q.register_forward_hook(lambda _, __, found: heard.append(found.shape))
    second.k = nn.Sequential(second.k)
    found = model(input_ids=torch.arange(1, 9)[None])["logits"]
    assert len(heard) == 1
    torch.testing.assert_close(found, plain)
    for place in ("norm1", "norm2", "dropout", "attention", "feed_forward"):
        block = model.model.blocks[0]
        assert isinstance(block, FusedPostNorm)
        assert block.has_known_parts()
        hook = getattr(block, place).register_forward_hook(lambda *_: None)
        assert not block.has_known_parts()
        hook.remove()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.25, marks=pytest.mark.slow)])
def test_compiled_blocks_take_the_kernels_with_gradients(monkeypatch: pytest.MonkeyPatch, dropout: float) -> None:
    """As on a GPU; Triton's interpreter runs the kernels, whose products it cannot compute in bfloat16."""
    pytest.importorskip("triton")
    from torch._dynamo.utils import counters

    from flagai.kernels import hardware
    from flagai.kernels.packed import attention_autograd as training

    class OnGpu(CompiledMask):
        def __init__(self, mask: AttentionMask, device: torch.device) -> None:
            super().__init__(mask, device)
            self.max_seqlen, self.classes = "short", length_classes(mask.packed)

    monkeypatch.setattr(module, "CompiledMask", OnGpu)
    attentions, operators, tiles = [], [], training.tiles_of
    monkeypatch.setattr(training, "tiles_of", lambda classes: attentions.append(1) or tiles(classes))
    monkeypatch.setattr(hardware, "has_triton_half", lambda *_: True)
    compile_it = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **more: compile_it(self, backend="aot_eager", fullgraph=True, **more)
    )
    settings = {"class_num": 3, **NO_DROPOUT, "hidden_dropout_prob": dropout}
    plain, compiled = (
        folders.model("RoBERTa-base-ch", "BertForSequenceLabeling", **settings).train() for _ in range(2)
    )
    compiled.load_state_dict(plain.state_dict())
    compile_blocks(compiled)
    embedded: list[torch.dtype] = []
    compiled.model.blocks.register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0].dtype))
    torch._dynamo.reset()
    counters.clear()

    def gradients(model: nn.Module, row: PackedRow) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        ids = torch.randint(1, 100, (1, row.total))
        with torch.autocast("cpu", torch.float16):
            model(input_ids=ids, segment_ids=torch.zeros_like(ids), labels=ids % 3, lengths=row)["loss"].backward()
        found = {name: entry.grad for name, entry in model.named_parameters() if entry.grad is not None}
        model.zero_grad(set_to_none=True)
        return found

    # Seven offsets and 25 positions, as above. The interpreter is slow: other lengths are seen without dropout.
    rows = [PackedRow((9, 7, 3, 2, 2, 2)), PackedRow((17, 5))][: 1 if dropout else 2]
    gradients(compiled, rows[0])  # compiles: tracing calls the operators, too
    for row in rows:
        with torch.profiler.profile() as profile:
            found = gradients(compiled, row)
        # Without dropout there is nothing to draw.
        again = gradients(compiled, row) if dropout else found
        operators.append(Counter(event.name for event in profile.events() if event.name.startswith("flagai::")))
        for name, expected in gradients(plain, row).items():
            assert torch.equal(found[name], again[name]), "dropout is not drawn from the generator"
            if not dropout:
                # The gradient of the keys' biases is nothing but rounding.
                scale = float(expected.abs().max().clamp_min(2e-3))
                assert float((found[name] - expected).abs().max()) <= 0.05 * scale, name
    assert attentions
    for called in operators:
        assert called["flagai::dropout_add_norm"]
        assert called["flagai::bias_gelu"]
        assert called["flagai::add_product"] == 2 * len(compiled.model.blocks), "gradients that meet are not added"
    assert set(embedded) == {torch.float16}
    assert counters["stats"]["unique_graphs"] == 2, "one for the embeddings, one for all blocks and lengths"
