"""Rows in one array do what lists of lists do."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagai.data.ragged import Ragged
from flagai.errors import InputError

Rows = list[list[int]]
rows = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


def lists(ragged: Ragged) -> Rows:
    ends = ragged.lengths.cumsum()
    return [part.tolist() for part in np.split(ragged.values, ends[:-1])] if len(ragged) else []


@given(rows, st.data())
def test_everything(texts: Rows, data: Any) -> None:
    ragged = Ragged.of(texts)
    assert lists(ragged) == texts
    order = data.draw(st.lists(st.integers(0, len(texts) - 1))) if texts else []
    assert lists(ragged.take(np.array(order, dtype=np.int64))) == [texts[index] for index in order]
    length = data.draw(st.integers(1, 4))
    assert lists(ragged.cut(length)) == [row[:length] for row in texts]
    assert lists(ragged.between(10, 11)) == [[10, *row, 11] for row in texts]
    assert lists(ragged.replaced([3, 8], 12)) == [
        [12 if number in (3, 8) else number for number in row] for row in texts
    ]


@pytest.mark.parametrize("texts", [[[1, 2.5]], [["1"]], [[None]]], ids=str)
def test_what_is_no_number_is_refused(texts: Any) -> None:
    with pytest.raises(InputError, match="integers"):
        Ragged.of(texts)
