"""Every search gives each text of a batch the answer that it has alone, with the later GLMs, too."""

import pytest

from flagai.generation import Decoding, Prompt, generate
from tests.generation.writers import SEARCHES, TEXTS, lively

GMASK, SOP = 36, 38


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", ["ChatGLMModel", "ChatGLM2Model"])
def test_a_batch_and_single_texts(name: str, search: str) -> None:
    first = name == "ChatGLMModel"
    prompts = [Prompt((*ids, GMASK), (len(ids),)) if first else Prompt(ids) for ids in TEXTS]
    start = {"start_id": SOP} if first else {}
    decoding = Decoding(**{"max_new_tokens": 7, "stop_token_ids": (2, 17), **start, **SEARCHES[search]})
    model = lively(name)
    together = [[each.ids for each in answers] for answers in generate(model, prompts, decoding)]
    assert together == [[each.ids for each in generate(model, [prompt], decoding)[0]] for prompt in prompts]
    assert len({answers[0] for answers in together}) > 1
