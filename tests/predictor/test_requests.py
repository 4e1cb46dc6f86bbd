"""Requests for a scheduler of one's own give the Predictor's answers."""

import pytest

import flagai
from flagai.errors import InputError
from flagai.generation import Scheduler
from flagai.model.predictor.predictor import Predictor

TEXTS = ["桃花：七言绝句", "秋思：五言律诗", "床前明月光，[MASK]"]


@pytest.fixture(scope="module")
def predictor():
    return flagai.load("poetry").predictor


@pytest.mark.parametrize(
    "options", [{"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True, "seed": 3, "stop": "，"}], ids=str
)
def test_requests_give_what_write_gives(predictor, options):
    asked = predictor.requests(TEXTS, None, 12, **options)
    seen = {each: [""] for each in asked}
    with Scheduler(predictor.model) as scheduler:
        for each in asked:
            each.request.stream = True
            scheduler.submit(each.request)
        assert asked[0].answers() == []
        while scheduler.has_work:
            scheduler.step()
            for each in asked:
                seen[each].append(each.certain)
    wanted = predictor.write(TEXTS, None, 12, **{"num_return_sequences": 1} | options)
    assert [each.answers() for each in asked] == wanted
    for each, answers in zip(asked, wanted, strict=True):
        assert seen[each][-1] == answers[0].written
        assert all(later.startswith(earlier) for earlier, later in zip(seen[each], seen[each][1:], strict=False))
        assert len(set(seen[each])) > 1


def test_the_memory_of_a_predictor_holds_for_all_that_it_writes(predictor):
    writes = {
        "write": lambda each: each.write(TEXTS[:2], None, 12),
        "write_each": lambda each: [*each.write_each(TEXTS[:2], None, 12)],
        "stream": lambda each: [*each.stream(TEXTS[0], None, 12)],
        "fill_blanks": lambda each: each.fill_blanks(TEXTS[2], out_max_length=6),
    }
    small, none = (Predictor(predictor.model, predictor.tokenizer, memory=memory) for memory in (2**22, 10))
    for name, write in writes.items():
        assert write(small) == write(predictor), name
        with pytest.raises(InputError, match="memory=10 bytes hold no block"):
            write(none)
    with pytest.raises(InputError, match="memory is 'all'"):
        Predictor(predictor.model, predictor.tokenizer, memory="all")


def test_blank_requests_give_what_fill_blanks_gives(predictor):
    asked = predictor.blank_requests(TEXTS[2:], num_return_sequences=2, out_max_length=6)
    assert asked[0].filled() == []
    with Scheduler(predictor.model) as scheduler:
        scheduler.submit(asked[0].request)
        while scheduler.has_work:
            scheduler.step()
    assert asked[0].filled() == predictor.fill_blanks(TEXTS[2], 2, 6)
    with pytest.raises(InputError, match="has no blank"):
        predictor.blank_requests(TEXTS[:1])
