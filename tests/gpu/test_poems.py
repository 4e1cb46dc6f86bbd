"""Rules of poems on a GPU are those on a CPU."""

from pathlib import Path

import pytest
import torch

import flagai
from flagai.data.prepare.poem import PoemForm
from flagai.data.tokenizer import Tokenizer
from flagai.poetry import PoemRules, faults
from tests import tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_the_same_tokens_are_allowed_on_both_devices() -> None:
    tokenizer = Tokenizer.from_folder(Path(flagai.__file__).parent / "models/GLM-mini-ch")
    rules = PoemRules(tiny.build("GLMForSeq2Seq", vocab_size=6272, max_sequence_length=384), tokenizer)
    end = tokenizer.get_command_id("sep")
    rows = [[*tokenizer.encode(f"花：{form}"), end, *tokenizer.encode("潇潇")] for form in PoemForm]
    ids, scores = torch.tensor(rows)[:, None], torch.randn(4, 1, 6272)
    assert torch.equal(rules(ids.cuda(), scores.cuda()).cpu(), rules(ids, scores))


def test_poems_keep_the_rules() -> None:
    titles = [f"雪夜：{form}" for form in PoemForm]
    poems = flagai.load("poetry", device="cuda")(titles, seed=1)
    assert [faults(poem, form) for poem, form in zip(poems, PoemForm, strict=True)] == [[]] * 4
