"""Predictors over tiny models with the real vocabularies."""

import pytest

from flagai.data.tokenizer import Tokenizer
from flagai.model.predictor.predictor import Predictor
from tests import folders


@pytest.fixture(scope="session")
def predictor(vocabularies_home):
    made = {}

    def make(name, class_name, **changes):
        key = (name, class_name, tuple(sorted(changes.items())))
        if key not in made:
            tokenizer = Tokenizer.from_folder(vocabularies_home / name)
            made[key] = Predictor(folders.model(name, class_name, **changes), tokenizer)
        return made[key]

    return make
