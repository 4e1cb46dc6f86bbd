"""Blanks are filled where they are, by GLM, BERT and T5."""

import pytest

from flagai.errors import InputError
from flagai.model.predictor.blanks import put_back

TEXTS = ["北京是[MASK]的首都，[MASK]是法国的首都。", "[MASK]", "清晨的山谷里，[MASK]，鸟儿开始歌唱。"]


@pytest.fixture(params=["GLMModel", "GLMForSeq2Seq", "BertForMaskLM", "T5Model"])
def filler(request, predictor):
    names = {"BertForMaskLM": "RoBERTa-base-ch", "T5Model": "T5-base-en"}
    return predictor(names.get(request.param, "GLM-large-ch"), request.param)


def test_every_blank_is_filled_in_its_place(filler):
    found = filler.fill_blanks(TEXTS, num_return_sequences=3, out_max_length=4)
    assert len(found) == len(TEXTS)
    for text, answers in zip(TEXTS, found, strict=True):
        assert len(answers) == 3
        scores = [answer.score for answer in answers]
        assert scores == sorted(scores, reverse=True)
        for answer in answers:
            assert [answer.text[start:end] for start, end in answer.spans] == list(answer.fillings)
            rest = answer.text
            for start, end in reversed(answer.spans):
                rest = f"{rest[:start]}[MASK]{rest[end:]}"
            assert rest == text


def test_a_batch_is_filled_as_its_texts_alone(filler):
    together = filler.fill_blanks(TEXTS, num_return_sequences=2, out_max_length=4)
    alone = [filler.fill_blanks(text, num_return_sequences=2, out_max_length=4) for text in TEXTS]
    assert [[(a.text, a.spans) for a in answers] for answers in together] == [
        [(a.text, a.spans) for a in answers] for answers in alone
    ]


def test_glm_knows_three_kinds_of_blanks(predictor):
    run = predictor("GLM-large-ch", "GLMModel")
    (found,) = run.fill_blanks("早上[sMASK]，所以[MASK]。后来[gMASK]", out_max_length=3)
    assert len(found.spans) == 3
    assert "MASK" not in found.text


def test_a_text_without_a_blank_is_named(filler):
    with pytest.raises(InputError, match="Text 1 has no blank"):
        filler.fill_blanks(["a[MASK]", "今天天气"])
    with pytest.raises(InputError, match="num_return_sequences is 0"):
        filler.fill_blanks("a[MASK]", num_return_sequences=0)


def test_what_is_missing_becomes_empty():
    found = put_back("a[MASK]b[sMASK]c", ["x"], -1.0)
    assert (found.text, found.spans, found.fillings) == ("axbc", ((1, 2), (3, 3)), ("x", ""))


def test_who_cannot_fill_says_so(predictor):
    with pytest.raises(InputError, match="fill_blanks needs one of GLMModel"):
        predictor("GPT2-base-ch", "GPT2Model").fill_blanks("[MASK]")
    with pytest.raises(InputError, match="sentinels"):
        predictor("T5-base-ch", "T5Model").fill_blanks("[MASK]")
