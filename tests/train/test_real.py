"""Fine-tuning a real Chinese BERT: the package of the repository learns to tag from two dozen sentences."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from flagai.auto_model.auto_loader import AutoLoader
from flagai.model.predictor.predictor import Predictor
from flagai.train.finetune import finetune
from flagai.train.metrics import entity_scores
from flagai.train.recipe import Recipe

pytest.importorskip("accelerate")
MODEL = Path(__file__).parents[2] / ("packages/flagai-model-me5-small-bert-zh/src/flagai_model_me5_small_bert_zh/model")
PLACES = ("北京", "上海", "杭州", "西安", "成都", "南京", "广州", "武汉")
PEOPLE = ("王小明", "李芳", "张伟", "刘洋", "陈静", "赵强")
FRAMES = ("{person}昨天到了{place}。", "{place}的春天很美，{person}说。", "我和{person}住在{place}。")
# Neither these names nor these sentences are in the training data.
HELD_OUT = [("{person}明天去{place}开会。", "周杰", "重庆"), ("听说{person}在{place}读书。", "吴敏", "天津"),
            ("{place}下雨了，{person}没有带伞。", "孙丽", "苏州")]  # fmt: skip


def tagged(frame: str, person: str, place: str) -> dict[str, Any]:
    text = frame.format(person=person, place=place)
    tags = ["O"] * len(text)
    for name, kind in ((person, "PER"), (place, "LOC")):
        start = text.index(name)
        tags[start : start + len(name)] = [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)]
    return {"text": text, "tags": tags}


@pytest.mark.slow
def test_a_real_bert_learns_names_from_a_few_sentences(tmp_path: Path) -> None:
    names = zip(itertools.cycle(PEOPLE), itertools.cycle(PLACES), strict=False)
    rows = [tagged(FRAMES[number % 3], *next(names)) for number in range(24)]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    recipe = Recipe(epochs=8, learning_rate=4e-4, batch_tokens=200, held_out=0.15, evaluate_every=1000)
    finetune("ner", str(MODEL), file, tmp_path / "mine", recipe=recipe)
    loader = AutoLoader("ner", model_name="mine", model_dir=tmp_path)
    found = Predictor(loader.get_model(), loader.get_tokenizer()).predict_ner(
        [tagged(*row)["text"] for row in HELD_OUT]
    )
    gold = []
    for frame, person, place in HELD_OUT:
        text = frame.format(person=person, place=place)
        spans = ((text.index(name), len(name), kind) for name, kind in ((person, "PER"), (place, "LOC")))
        gold.append([(start, start + size - 1, kind) for start, size, kind in spans])
    assert entity_scores(found, gold)["f1"] >= 0.4, found  # 0.67; a head that was not trained finds nothing
