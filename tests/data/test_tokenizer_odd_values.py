"""Whatever a method of the Tokenizer is given, it answers or raises an error of this library, soon."""

import contextlib
import inspect

import numpy as np
import pytest
import torch

from flagai.data.tokenizer import Tokenizer
from flagai.errors import FlagAIError, InputError

ODD = [
    *(
        None,
        True,
        0,
        -1,
        2.5,
        float("nan"),
        10**9,
        10**30,
        10**400,
        b"\xff",
        "",
        "\ud800",
        "\x00",
        "今" * 999,
        [],
        [[]],
    ),
    *([None], [""], [1.5], [[1, 2]], [1, "a"], [-1], [10**30], [2**64], ["今", None], ["\ud800"], {}, {"a": 1}, {"今"}),
    *(object(), range(3), np.int64(3), np.array(5), np.array([[1]]), torch.tensor(3), torch.tensor([[1]]), len),
]
RIGHT = {"text": "今天", "ids": [1, 2], "texts": ["今"], "tokens": ["a"], "token": "a", "id": 1, "names": ["cls"]}
RIGHT |= {"name": "cls", "rows": 30, "second_text": "天"}
_INTERNAL = {"cut", "split", "rows_needed"}
METHODS = [
    name
    for name, entry in inspect.getmembers(Tokenizer, inspect.isfunction)
    if not name.startswith("_") and name not in _INTERNAL and len(inspect.signature(entry).parameters) > 1
]


@pytest.mark.parametrize("model", ["GLM-large-ch", "RoBERTa-base-ch", "GPT2-base-en", "T5-base-en"])
def test_odd_values_answer_or_are_named(vocabularies_home, model):
    tokenizer = Tokenizer.from_folder(vocabularies_home / model)
    for method in METHODS:
        call = getattr(tokenizer, method)
        parameters = inspect.signature(call).parameters.values()
        right = {entry.name: RIGHT[entry.name] for entry in parameters if entry.default is entry.empty}
        if method == "decode_batch":
            right = {"rows": [[1, 2]]}
        for entry in parameters:
            for value in ODD:
                with contextlib.suppress(FlagAIError):
                    call(**right | {entry.name: value})


@pytest.mark.parametrize("ids", [-1, [-1], [10**30], [1.5], None, [None], [[1, 2]], "今", np.array(5)], ids=repr)
def test_ids_that_are_none_are_named(vocabularies_home, ids):
    tokenizer = Tokenizer.from_folder(vocabularies_home / "RoBERTa-base-ch")
    for method in (tokenizer.decode, tokenizer.DecodeIds, tokenizer.convert_ids_to_tokens, tokenizer.bytes_of):
        with pytest.raises(InputError, match=r"is not in the vocabulary|takes a sequence of integers"):
            method(ids)
