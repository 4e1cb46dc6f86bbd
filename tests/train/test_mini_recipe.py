"""The recipe of GLM-mini-ch: its rows mean what the model's own preparation says, its runs continue exactly."""

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from flagai.data.prepare import glm
from flagai.data.tokenizer import Tokenizer
from flagai.model.glm_model import GLMForSeq2Seq
from tests import folders

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "recipes"))
fast: Any = pytest.importorskip("glm_mini_model")
pools: Any = pytest.importorskip("glm_mini_pool")
tasks: Any = pytest.importorskip("glm_mini_tasks")
training: Any = pytest.importorskip("glm_mini_training")

POEM = {"title": "山中", "prompt": "山中：五言绝句", "text": "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"}
ARTICLE = {
    "text": "为了提高图像分割的精度,提出基于聚类的图像分割算法。该图像分割算法先聚类,再合并区域。实验有效。",
    "title": "基于聚类的图像分割算法",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(ROOT / "src/flagai/models/GLM-mini-ch")


@pytest.fixture(scope="module")
def made(tokenizer: Tokenizer) -> tuple[Any, Any]:
    poems, articles = (
        {field: [tuple(tokenizer.encode(text))] * 6 for field, text in row.items()} for row in (POEM, ARTICLE)
    )
    examples = tasks.examples(poems, articles, prompts=poems["prompt"], verses=poems["text"], kept=[1, 4])
    return tasks.Rows(tokenizer, [tokenizer.encode(title) for title in ("一种的基于", "算法")]), examples


def small_model() -> GLMForSeq2Seq:
    model = folders.model("GLM-large-ch", "GLMForSeq2Seq", vocab_size=6272, max_sequence_length=384)
    assert isinstance(model, GLMForSeq2Seq)
    return model.eval()


def pool_of(made: tuple[Any, Any], tokens: int = 256) -> Any:
    rows, examples = made
    settings = {"tokens": tokens, "seed": 1, "vocab_size": 6272, "device": torch.device("cpu")}
    return pools.Pool(pools.make(rows, examples, 1, 0), rows, **settings)


@pytest.mark.parametrize("task", ["poem", "title", "text_recital", "text_echo", "text_blank"])
def test_the_loss_is_that_of_the_model_itself(tokenizer: Tokenizer, made: Any, task: str) -> None:
    rows, examples = made
    chosen = [
        rows.row(task, example, random.Random(seed))
        for seed, example in enumerate(tasks.expanded(tokenizer, task, examples[task]))
    ]
    model, pad = small_model(), tokenizer.get_command_id("pad")
    step = fast.FastGLM(model, fast.Functions(torch.float32))
    total = count = 0.0
    for table in pools.tables([(0, row) for row in chosen], pad).values():
        batch = {name: torch.from_numpy(array).long() for name, array in table.items()}
        total += step.loss(batch, int(table["asked"].sum()) + 3).item()
        count += float(table["asked"].sum())
    assert total / count == pytest.approx(model(**glm.collate(chosen, pad))["loss"].item(), rel=1e-5)


def test_characters_are_exchanged_alike_in_the_text_and_its_title(tokenizer: Tokenizer, made: Any) -> None:
    rows, _ = made
    pool = pool_of(made)
    number = list(tasks.SHARES).index("title")
    common = set(tokenizer.encode("一种的基于算法"))
    exchanged = 0
    for key, of_task in pool.of_task.items():
        places = numpy.flatnonzero(of_task == number)
        if key[0] or not len(places):
            continue
        torch.manual_seed(1)
        batch, _ = pool.batch(key, places)
        before = {name: array[torch.from_numpy(places)].long() for name, array in pool.device_tables[key].items()}
        for old, new, target in zip(before["ids"], batch["ids"], batch["targets"], strict=True):
            changed = dict(zip(old.tolist(), new.tolist(), strict=True))
            assert [changed[token] for token in old.tolist()] == new.tolist()
            assert all(changed[token] == token for token in old.tolist() if token in common)
            asked = target >= 0
            assert target[:-1][asked[:-1]].tolist()[:-1] == new[1:][asked[:-1]].tolist()[:-1]
            exchanged += int((old != new).any())
    assert exchanged > 10
    assert rows.content < rows.free


def test_an_echo_goes_on_as_the_text_does(tokenizer: Tokenizer, made: Any) -> None:
    rows, examples = made
    for seed in range(20):
        source, target = rows.pair("text_echo", examples["text_echo"][0], random.Random(seed))
        cue = tuple(tokenizer.encode("续："))
        place = next(at for at in range(len(source)) if source[at : at + len(cue)] == cue)
        text, begun = source[:place], source[place + len(cue) :]
        assert any(text[at : at + len(begun) + len(target)] == begun + target for at in range(len(text)))


def test_keywords_are_what_is_repeated(tokenizer: Tokenizer, made: Any) -> None:
    _, examples = made
    asked = tuple(tokenizer.encode("关键词："))
    entries = tasks.expanded(tokenizer, "text_recital", examples["text_recital"])
    (found, *_) = [example for example in entries if example.source[: len(asked)] == asked]
    assert "图像分割" in tokenizer.decode(list(found.target)).replace(" ", "")


def test_every_pass_has_each_poem_and_full_batches_of_one_kind(made: Any) -> None:
    pool = pool_of(made)
    poem = list(tasks.SHARES).index("poem")
    met = set()
    for key, places in pool.batches_of(0, tasks.SHARES):
        assert len(places) == max(1, 256 // key[1])
        met |= {int(place) for place in places if pool.of_task[key][place] == poem}
    assert len(met) == 6


@pytest.mark.parametrize("muon", [True, False])
def test_a_run_that_was_cut_off_continues_exactly(made: Any, tmp_path: Path, muon: bool) -> None:
    plan = training.Plan(warm_up=2, dropout=0.1, decay_from=4, steps=7, muon=muon)

    def run(name: str, of: Any = plan) -> Any:
        torch.manual_seed(3)
        model = small_model()
        model.init_weights()
        return training.Training(model, pool_of(made), {}, of, tmp_path / name, fast.Functions(torch.float32, 0.1))

    whole = run("whole")
    whole.train(until=4)
    whole.save()
    rest = run("rest", replace(plan, seed=1))
    rest.resume(tmp_path / "whole" / "state.safetensors")
    for one in (whole, rest):
        one.train()
        assert one.step == 7
    assert whole.tokens == rest.tokens
    for (name, one), other in zip(whole.named.items(), rest.named.values(), strict=True):
        assert torch.equal(one, other), name
    untrained = dict(run("new").named)
    assert any(not torch.equal(untrained[name], one) for name, one in rest.named.items())
    size = (tmp_path / "whole" / "state.safetensors").stat().st_size
    assert size < sum(parameter.numel() for parameter in rest.named.values()) * 3
