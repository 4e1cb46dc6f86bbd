"""Predictor.chat: typed answers, streams and requests, with a tiny model and a template."""

import pytest
import torch

from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.generation import Scheduler
from flagai.model.predictor.predictor import Predictor
from tests import chatglm_vocabularies, tiny
from tests.chat.conftest import chat_folder  # noqa: F401 - a fixture

USER = [{"role": "user", "content": "Hi"}]
LONGER = [*USER, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "天空?"}]


@pytest.fixture
def predictor(chat_folder):  # noqa: F811
    tokenizer = Tokenizer.from_folder(chat_folder())
    return Predictor(tiny.build("GPT2Model", vocab_size=tokenizer.vocab_size), tokenizer)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3}, {"num_beams": 2}], ids=str)
def test_streams_requests_and_batches_give_the_same_answer(predictor, options):
    options = {"max_new_tokens": 12, **options}
    answer = predictor.chat(USER, **options)
    assert (answer.content, answer.finished) == tuple(answer) == (answer.message.content, answer.finished)
    assert (answer.num_prompt_tokens, answer.message.role) == (4, "assistant")
    stream = predictor.chat_stream(USER, **options)
    with pytest.raises(InputError, match="not finished"):
        _ = stream.result
    pieces = list(stream)
    assert "".join(pieces) == answer.content
    assert stream.result == answer
    several = predictor.chat([USER, LONGER], **options)
    assert several[0] == answer
    asked = predictor.chat_requests([USER, LONGER], **options)
    with Scheduler(predictor.model) as scheduler:
        scheduler.submit(*(each.request for each in asked))
        while scheduler.has_work:
            scheduler.step()
    assert [each.answers()[0] for each in asked] == several


CLASSES = {"chatglm": "ChatGLMModel", "chatglm2": "ChatGLM2Model", "chatglm3": "ChatGLM2Model", "glm4": "ChatGLM2Model"}


@pytest.mark.parametrize("generation", CLASSES)
def test_each_generation_answers(generation, tmp_path):
    """The prompt is the format's ids, read as the family reads a prompt: the whole, or behind a blank."""
    tokenizer = Tokenizer.from_folder(chatglm_vocabularies.put(tmp_path, generation))
    size = {"padded_vocab_size" if generation != "chatglm" else "vocab_size": 512}
    model = tiny.build(CLASSES[generation], **size)
    predictor = Predictor(model, tokenizer)
    options = {"do_sample": False, "max_new_tokens": 8}
    answer = predictor.chat(LONGER, **options)
    chat = predictor.chat_format
    ids = chat.encode(LONGER)
    (asked,) = predictor.chat_requests([LONGER], **options)
    prompt, decoding = asked.request.prompt, asked.request.decoding
    start = () if decoding.start_id is None else (decoding.start_id,)
    assert [*prompt.ids, *start] == ids
    assert bool(prompt.blanks) == (generation == "chatglm")
    assert set(chat.stop_ids) <= set(decoding.stop_token_ids)
    row = torch.tensor([ids])
    written = []
    with torch.inference_mode():
        for _ in range(8):
            best = model(input_ids=row)["logits"][0, -1, : tokenizer.vocab_size].argmax().item()
            if best in decoding.stop_token_ids:
                break
            written.append(best)
            row = torch.cat([row, torch.tensor([[best]])], 1)
    assert answer.message == chat.parse(written)
    assert "".join(predictor.chat_stream(LONGER, **options)) == answer.content


def test_texts_end_an_answer(predictor):
    whole = predictor.chat(USER, max_new_tokens=12).content
    stop = whole[3:5]
    found = predictor.chat(USER, max_new_tokens=12, stop=stop)
    assert found.content == whole[: whole.index(stop)].rstrip()
    assert found.finish_reason == "stop"
    assert "".join(predictor.chat_stream(USER, max_new_tokens=12, stop=stop)) == found.content
    assert predictor.chat(USER, max_new_tokens=12).finish_reason == "length"


def test_an_answer_has_the_room_that_is_left(predictor):
    positions = predictor.model.max_positions
    assert predictor.chat(USER).num_tokens <= positions
    with pytest.raises(InputError, match="room for 37"):
        predictor.chat(USER, max_new_tokens=positions)
    with pytest.raises(InputError, match="more than the model has positions"):
        predictor.chat([{"role": "user", "content": "far " * 50}])


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        (("Hi",), {}, "messages is 'Hi'"),
        (([],), {}, "messages is"),
        ((USER,), {"beams": 2}, "There is no option 'beams'"),
        ((USER,), {"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_impossible_arguments_are_told(predictor, arguments, options, told):
    with pytest.raises(InputError, match=told):
        predictor.chat(*arguments, **options)


def test_models_without_a_template_do_not_chat(predictor, vocabularies_home):
    plain = Predictor(predictor.model, Tokenizer.from_folder(vocabularies_home / "GPT2-base-en"))
    with pytest.raises(InputError, match="not trained to chat"):
        plain.chat(USER)
