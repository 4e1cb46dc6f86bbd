"""Odd input: clear errors, or a documented result."""

import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from flagai.errors import InputError
from tests.vocabularies import FILES

EVERY = pytest.mark.parametrize("name", FILES)


@EVERY
def test_not_text_is_named(load, name) -> None:
    tokenizer = load(name)
    with pytest.raises(InputError, match="Text 1 is of type int"):
        tokenizer.encode_batch(["好", 3])
    with pytest.raises(InputError, match="Text 0 is of type NoneType"):
        tokenizer.encode(None)
    with pytest.raises(InputError, match="list of texts"):
        tokenizer.encode_batch("好")
    with pytest.raises(InputError, match="None"):
        tokenizer.encode_plus(None)


@EVERY
def test_odd_texts(load, name) -> None:
    tokenizer = load(name)
    assert tokenizer.encode("") == []
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode("\ud800") == tokenizer.encode("\ufffd")
    assert tokenizer.encode_batch(["", "a"])[0].offsets == []
    assert tokenizer.decode(tokenizer.encode("a\x00b")).replace(" ", "").startswith("a")


LONG = [
    "今天天气不错，我们去吃饭吧。",
    *(pytest.param(text, marks=pytest.mark.slow) for text in ("A fox. ", "a", "😀", " ")),
]


@EVERY
@pytest.mark.parametrize("text", LONG)
def test_a_megabyte_takes_seconds(load, name, text) -> None:
    tokenizer = load(name)
    tokenizer.encode("今")  # jieba reads its dictionary at the first text
    long = text * (1_000_000 // len(text.encode()))
    start = time.process_time()  # not the wall's: the machine may be busy
    ids = tokenizer.encode(long)
    assert time.process_time() - start < 15
    assert ids or text == " "


@EVERY
@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_of_the_vocabulary_is_named(load, name, wrong) -> None:
    with pytest.raises(InputError, match=f"{wrong} is not in the vocabulary"):
        load(name).decode([5, wrong])


def test_ids_that_are_no_numbers(load) -> None:
    with pytest.raises(InputError, match="integers"):
        load("RoBERTa-base-ch").decode(["今"])
    with pytest.raises(InputError, match="integers"):
        load("RoBERTa-base-ch").decode([1.5])


def test_rows_that_fill_up_an_embedding_decode_to_nothing(load) -> None:
    glm = load("GLM-large-ch")
    assert glm.decode([3378, 50005, 50047]) == "今天"
    assert glm.convert_ids_to_tokens([3378, 50047]) == ["▁今天", ""]


def test_tensors_and_arrays_decode(load) -> None:
    tokenizer = load("RoBERTa-base-ch")
    assert tokenizer.decode(torch.tensor([791, 1921])) == tokenizer.decode(np.array([791, 1921])) == "今天"
    assert tokenizer.decode_batch(torch.tensor([[101, 791], [1921, 102]]), skip_special_tokens=True) == ["今", "天"]


@EVERY
def test_other_processes_and_threads_get_the_same(load, name) -> None:
    tokenizer = load(name)
    texts = [f"第{n}句 [MASK] number {n}" for n in range(100)]
    expected = [entry.ids for entry in tokenizer.encode_batch(texts)]
    for twin in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert [twin.encode(text) for text in texts] == expected
        assert twin.decode(expected[0]) == tokenizer.decode(expected[0])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == expected
    encoding = tokenizer.encode_batch(texts[:1])[0]
    assert pickle.loads(pickle.dumps(encoding)) == encoding


@pytest.mark.parametrize("max_length", [0, -3, 1.5, True])
def test_max_length_must_be_a_number_of_tokens(load, max_length) -> None:
    with pytest.raises(InputError, match="max_length"):
        load("RoBERTa-base-ch").encode_plus("好", max_length=max_length)


@EVERY
def test_max_length_is_kept(load, name) -> None:
    tokenizer = load(name)
    first, second = "今天天气不错 a b c d", "我们去吃饭吧 x y z"
    for max_length in range(3, 24):
        for other in (None, second):
            sample = tokenizer.encode_plus(first, other, max_length=max_length)
            assert len(sample["input_ids"]) <= max_length
            assert (
                len(
                    {
                        len(row)
                        for key, row in sample.items()
                        if key.endswith(("ids", "mask")) and row and key != "position_ids"
                    }
                )
                == 1
            )
    whole = tokenizer.encode_plus(first, second, truncation=False, max_length=3)
    assert len(whole["input_ids"]) == len(tokenizer.encode_plus(first, second)["input_ids"])


def test_too_small_a_max_length_is_refused(load) -> None:
    with pytest.raises(InputError, match="max_length is by 1 too small"):
        load("BERT-base-en").encode_plus("a", "b", max_length=2)
    with pytest.raises(InputError, match="no room"):
        load("GLM-large-ch").encode_plus("a", max_length=1)
