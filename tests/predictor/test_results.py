"""Results are dataclasses and FlagAI's tuples at the same time."""

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagai.model.predictor.predictor import Predictor
from flagai.model.predictor.results import Entity, Filled, Similarity, Written, WrittenText

ENTITIES = st.builds(
    Entity, st.integers(0, 99), st.integers(0, 99), st.text(max_size=5), st.text(max_size=5), st.floats(allow_nan=False)
)
WRITTEN = st.builds(Written, st.text(max_size=5), st.floats(allow_nan=False), st.booleans(), st.text(max_size=5))
SPANS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3).map(tuple)
FILLED = st.builds(
    Filled, st.text(max_size=5), SPANS, st.lists(st.text(max_size=3), max_size=3).map(tuple), st.floats(allow_nan=False)
)


@given(ENTITIES | WRITTEN | FILLED)
def test_a_result_is_the_tuple_of_its_required_fields(result):
    values = [getattr(result, field.name) for field in fields(result)]
    plain = tuple(values[: len(result)])
    assert isinstance(result, tuple)
    assert result == plain
    assert plain == result
    assert hash(result) == hash(plain)
    assert [*result] == [*plain]
    assert result[0] == plain[0]
    assert result[-1] == plain[-1]
    assert sorted([result, plain]) == [plain, plain]
    assert json.loads(json.dumps(result)) == json.loads(json.dumps(plain))
    assert asdict(result) == dict(zip([field.name for field in fields(result)], values, strict=True))
    named = [f"{field.name}={value!r}" for field, value in zip(fields(result), values, strict=True)]
    extra = "; " + ", ".join(named[len(result) :]) if named[len(result) :] else ""
    assert repr(result) == f"{type(result).__name__}({', '.join(named[: len(result)])}{extra})"
    for twin in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result)), replace(result)):
        assert type(twin) is type(result)
        assert asdict(twin) == asdict(result)
        assert twin == result


TEXTS = st.builds(WrittenText, st.text(max_size=5), st.floats(allow_nan=False), st.booleans())
SIMILARITIES = st.builds(Similarity, st.floats(allow_nan=False), st.sampled_from(["cosine", "probability"]))


@given(TEXTS | SIMILARITIES)
def test_a_result_is_the_value_of_its_first_field(result):
    first, *others = [field.name for field in fields(result)]
    plain = getattr(result, first)
    assert type(plain) in (str, float)
    assert isinstance(result, type(plain))
    assert result == plain
    assert plain == result
    assert hash(result) == hash(plain)
    assert type(result + plain) is type(plain)
    assert str(result) == f"{result}" == str(plain)
    assert json.dumps(result) == json.dumps(plain)
    assert asdict(result) == {first: plain, **{name: getattr(result, name) for name in others}}
    named = ", ".join(f"{name}={getattr(result, name)!r}" for name in (first, *others))
    assert repr(result) == f"{type(result).__name__}({named})"
    for twin in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result)), replace(result)):
        assert type(twin) is type(result)
        assert asdict(twin) == asdict(result)
        assert twin == result
    with pytest.raises(FrozenInstanceError):
        setattr(result, others[0], None)


def test_results_unpack_by_name_and_do_not_change():
    start, end, kind = entity = Entity(start=3, end=4, type="LOC", text="北京", score=0.5)
    assert (start, end, kind) == (3, 4, "LOC") == entity
    assert repr(entity) == "Entity(start=3, end=4, type='LOC'; text='北京', score=0.5)"
    assert replace(entity, end=5) == (3, 5, "LOC")
    with pytest.raises(FrozenInstanceError):
        entity.start = 1
    with pytest.raises(TypeError):
        Entity(1, 2)


def test_entities_carry_their_text(predictor):
    text = "今天北京天气很好"
    tiny = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=3)
    run = Predictor(tiny.model, tiny.tokenizer, allow_untrained=True)
    found = run.predict_ner(text, ["O", "B-LOC", "I-LOC"])
    assert found
    assert all(entity.text == text[entity.start : entity.end + 1] for entity in found)
