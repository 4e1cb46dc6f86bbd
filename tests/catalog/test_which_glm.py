"""The page "Which GLM?": its figures follow from the shapes on the cards."""

import re
from pathlib import Path

import pytest
import torch

from flagai.auto_model.registry import class_named
from flagai.catalog.catalog import find
from flagai.model.quantization import quantize

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| ([\w, -]+) \| ([\d.]+) B \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", re.MULTILINE)
ENGLISH, CHINESE = (ROW.findall((DOCS / page).read_text()) for page in ("which-glm.md", "zh/which-glm.md"))


def on_meta(card):
    """The model of a card, without memory."""
    cls = class_named(card.model_class)
    return cls.on_meta(cls.config_class.from_dict(card.config, card.origin)).to(torch.bfloat16)


def gigabytes(model):
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e9


@pytest.mark.parametrize("row", ENGLISH, ids=lambda row: row[0])
def test_memory_follows_from_shapes(row):
    names, parameters, *sizes, cached = row
    for name in names.split(", "):
        card = find(name)
        model = on_meta(card)
        assert f"{card.parameters / 1e9:.2g}" == parameters or f"{card.parameters / 1e9:.1f}" == parameters
        config = model.config
        heads = config.get("num_key_value_heads") or config.num_attention_heads
        width = config.get("head_dim") or config.hidden_size // config.num_attention_heads
        layers = config.get("num_hidden_layers") or config.num_layers
        assert f"{2 * layers * heads * width * 2 / 1000:.0f}" == cached
        found = [f"{gigabytes(model):.1f}"]
        for how in ("int8", "int4"):
            small = on_meta(card)
            quantize(small, how)
            found.append(f"{gigabytes(small):.1f}")
        assert found == sizes


def test_both_pages_have_the_same_figures():
    assert len(ENGLISH) == 10
    assert ENGLISH == CHINESE


def test_generations_of_the_series_are_told_apart():
    from flagai.catalog.catalog import list_models

    cards = list_models(family="glm")
    assert {card.family for card in cards} == {"glm", "chatglm", "chatglm2"}
    assert {"GLM", "ChatGLM", "ChatGLM2", "ChatGLM3", "CodeGeeX2", "GLM-4", "GLM-4-0414", "GLM-Z1"} == {
        card.generation for card in cards
    }
    assert {card.generation for card in list_models(family="bert")} == {None}
    for card in cards:
        for alias in card.aliases:
            assert find(alias) == card
