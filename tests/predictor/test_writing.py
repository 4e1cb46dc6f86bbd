"""Every model that writes: a batch answers as its texts alone, options do what they say, errors name the cure."""

import pytest
import torch

from flagai.errors import InputError
from flagai.model.predictor.label_scoring import label_scores
from flagai.model.predictor.predictor import Predictor
from flagai.model.predictor.results import Written

CHINESE = ["今天天气不错", "可穿戴产品的设计原则，以及它们的十大特点", "", "春江花月夜：七言绝句"]
ENGLISH = ["Hello world", "A storm hit the coast on Monday, and people fled.", ""]
WRITERS = {
    "GLM seq2seq": ("GLM-large-ch", "GLMForSeq2Seq", CHINESE),
    "GLM": ("GLM-large-ch", "GLMModel", [*CHINESE, "北京是[MASK]的首都，[sMASK]。"]),
    "GLM en": ("GLM-large-en", "GLMForSeq2Seq", ENGLISH),
    "BERT": ("RoBERTa-base-ch", "BertForSeq2seq", CHINESE),
    "GPT-2": ("GPT2-base-ch", "GPT2Model", CHINESE),
    "GPT-2 en": ("GPT2-base-en", "GPT2Model", ENGLISH),
    "T5": ("T5-base-ch", "T5Model", CHINESE),
    "T5 en": ("T5-base-en", "T5Model", ENGLISH),
}


@pytest.fixture(params=WRITERS)
def writer(request, predictor):
    name, class_name, texts = WRITERS[request.param]
    return predictor(name, class_name), texts


METHODS = {
    "predict_generate_beamsearch": {"beam_size": 3},
    "predict_generate_randomsample": {"seed": 7, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.5},
    "predict_generate_contrastive_search": {"beam_size": 3},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_answers_as_its_texts_alone(writer, method):
    run, texts = writer
    call = getattr(run, method)
    together = call(texts, out_max_length=6, **METHODS[method])
    assert together == [call(text, out_max_length=6, **METHODS[method]) for text in texts]
    assert all(isinstance(answer, str) for answer in together)


def test_one_beam_takes_the_best_token_every_time(writer):
    run, texts = writer
    assert run.predict_generate_beamsearch(texts, out_max_length=6) == run.write(texts, out_max_length=6)


def test_the_same_seed_writes_the_same(writer):
    run, texts = writer
    drawn = [run.predict_generate_randomsample(texts[0], out_max_length=8, seed=seed) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_the_n_best_come_with_scores(writer):
    run, texts = writer
    found = run.predict_generate_beamsearch(texts, out_max_length=5, beam_size=4, num_return_sequences=3)
    for answers in found:
        assert len(answers) == 3
        assert all(isinstance(answer, Written) for answer in answers)
        scores = [answer.score for answer in answers]
        assert scores == sorted(scores, reverse=True)
    best = run.predict_generate_beamsearch(texts, out_max_length=5, beam_size=4)
    assert [answers[0].text for answers in found] == best


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 3, "top_k": 20}], ids=str)
def test_a_stream_is_the_answer_in_pieces(writer, options):
    run, texts = writer
    for text in texts:
        if "[MASK]" in text or (run.model.config.family == "glm" and type(run.model).__name__ == "GLMModel"):
            continue  # write() repeats the prompt before what it writes
        assert "".join(run.stream(text, out_max_length=8, **options)) == run.write(text, out_max_length=8, **options)


def test_a_stop_text_ends_the_answer_and_is_not_in_it(writer):
    run, texts = writer
    if type(run.model).__name__ == "GLMModel":
        return
    whole = run.write(texts[0], out_max_length=8)
    stop = whole.split()[-1][-1] if whole.split() else None
    if stop is not None:
        found = run.write(texts[0], out_max_length=8, stop=[stop])
        assert found == whole[: whole.index(stop)]
        assert "".join(run.stream(texts[0], out_max_length=8, stop=[stop])) == found


@pytest.mark.parametrize("method", ["write", "predict_generate_beamsearch", "fill_blanks"])
def test_former_names_of_options_are_accepted_with_a_warning(predictor, method):
    run = getattr(predictor("GLM-large-ch", "GLMModel"), method)
    wanted = run("今[MASK]", out_max_length=3, num_return_sequences=2, num_beams=2)
    with pytest.warns(FutureWarning, match="n_best is now called num_return_sequences") as told:
        assert run("今[MASK]", out_max_length=3, n_best=2, num_beams=2) == wanted
    assert told[0].filename == __file__


def test_the_length_has_the_name_of_the_ecosystem_too(predictor):
    run = predictor("GPT2-base-ch", "GPT2Model")
    assert run.write("今天", max_new_tokens=3, min_new_tokens=3) == run.write(
        "今天", out_max_length=3, min_new_tokens=3
    )
    with pytest.warns(FutureWarning, match="min_length is now called min_new_tokens"):
        assert run.write("今天", max_new_tokens=3, min_length=3) == run.write("今天", 256, 3, min_new_tokens=3)
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        run.write("今天", max_new_tokens=0)


def test_bad_words_do_not_occur_and_no_ngram_twice(predictor):
    run = predictor("GPT2-base-ch", "GPT2Model")
    whole = run.write("今天", out_max_length=12)
    word = next(character for character in whole if "一" <= character <= "鿿")
    assert word not in run.write("今天", out_max_length=12, bad_words=[word])
    ids = run.tokenizer.encode(run.write("今天", out_max_length=12, no_repeat_ngram_size=1))
    assert len(set(ids)) == len(ids)


def test_a_plain_glm_repeats_the_prompt_before_what_it_writes(predictor):
    run = predictor("GLM-large-ch", "GLMModel")
    found = run.predict_generate_randomsample("北京是[MASK]的首都", out_max_length=3, seed=0)
    assert found.startswith("[CLS]北京是[MASK]的首都<|endoftext|><|startofpiece|>")


def test_long_texts_are_cut_and_blanks_are_not(predictor):
    run = predictor("GLM-large-ch", "GLMForSeq2Seq")
    assert isinstance(run.write("很长的文章" * 5000, out_max_length=3), str)
    with pytest.raises(InputError, match="Shorten"):
        predictor("GLM-large-ch", "GLMModel").write("很长[MASK]的文章" * 500, out_max_length=3)
    with pytest.raises(InputError, match=r"out_max_length 5000 leaves no room.* Lower it"):
        run.write("今天", out_max_length=5000)


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\t", "\x00", "\ud800坏", "😀😀👨‍👩‍👧", "ａｂｃ１２３", "龘靐齉", "é̀", "[CLS][SEP]", "<n>", "a" * 2000],
)
def test_strange_texts_are_answered(writer, text):
    run, _ = writer
    assert isinstance(run.predict_generate_beamsearch(text, out_max_length=3, beam_size=2), str)
    assert isinstance(run.predict_generate_randomsample(text, out_max_length=3, seed=1), str)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"out_max_length": 0}, "out_max_length is 0"),
        ({"input_max_length": 2}, "leaves no room"),
        ({"temprature": 2.0}, "Did you mean 'temperature'"),
        ({"stop": [""]}, "stop is"),
        ({"prompts_tokens": [1]}, "prompts_tokens"),
    ],
    ids=str,
)
def test_impossible_options_are_named(predictor, options, message):
    run = predictor("GLM-large-ch", "GLMForSeq2Seq")
    with pytest.raises(InputError, match=message):
        run.predict_generate_randomsample("今天", **{"out_max_length": 3} | options)


def test_possible_extremes_are_possible(predictor):
    run = predictor("GLM-large-ch", "GLMForSeq2Seq")
    greedy = run.write("今天", out_max_length=4)
    assert run.predict_generate_randomsample("今天", out_max_length=4, top_p=0) == greedy
    assert run.predict_generate_randomsample("今天", out_max_length=4, top_k=1, temperature=2) == greedy
    assert isinstance(run.predict_generate_randomsample("今天", out_max_length=4, top_k=0), str)


def test_what_is_no_text_is_named(predictor):
    run = predictor("GLM-large-ch", "GLMForSeq2Seq")
    with pytest.raises(InputError, match="Text 1 is int"):
        run.write(["今天", 5])
    assert run.write([]) == []


def test_a_model_that_does_not_write_says_what_it_does(predictor):
    run = predictor("RoBERTa-base-ch", "BertForSequenceLabeling")
    with pytest.raises(InputError, match=r"cannot do write; it can do predict_ner.*BertForSeq2seq"):
        run.predict_generate_beamsearch("今天")
    with pytest.raises(InputError, match="tokenizer"):
        Predictor(run.model)


@pytest.mark.parametrize(("name", "class_name"), [("GPT2-base-ch", "GPT2Model"), ("T5-base-en", "T5Model")])
@pytest.mark.parametrize("as_list", [False, True])
def test_end_tokens_of_the_configuration_end_answers(predictor, name, class_name, as_list):
    run = predictor(name, class_name)
    config, text = run.model.config, "今天天气" if name.endswith("ch") else "Hello world"
    tokens: list[int] = []

    def noted(history, scores):
        tokens.append(int(scores[0, 0].argmax()))
        return scores

    run.write(text, out_max_length=6, logits_processors=[noted])
    third = tokens[2]
    ends = [config.vocab_size + 5, third] if as_list else third
    try:
        run.model.config = config.replace(extra={**config.extra, "eos_token_id": ends})
        (answer,) = run.write(text, out_max_length=6, num_return_sequences=1)
    finally:
        run.model.config = config
    assert answer.finished
    kept = tokens[: tokens.index(third)]
    assert answer.written == run.tokenizer.decode(kept, skip_special_tokens=True)


@torch.no_grad()
def test_a_t5_begins_with_the_token_of_its_configuration(predictor):
    run = predictor("T5-base-en", "T5Model")
    config = run.model.config
    inputs = torch.tensor([run.tokenizer.encode_plus("Hello world")["input_ids"]])
    try:
        for start in (0, 42):
            run.model.config = config.replace(decoder_start_token_id=start)
            ids = torch.tensor([[start]])
            for _ in range(4):
                logits = run.model(inputs, decoder_input_ids=ids)["logits"][:, -1]
                ids = torch.cat([ids, logits[:, : run.tokenizer.vocab_size].argmax(-1)[None]], dim=1)
            right = run.tokenizer.decode(ids[0, 1:].tolist(), skip_special_tokens=True)
            assert run.write("Hello world", out_max_length=4, min_new_tokens=4) == right
            scores = run.model(inputs, labels=(labels := torch.tensor([[*run.tokenizer.encode("good"), 1]])))["logits"]
            wanted = scores.log_softmax(-1).gather(-1, labels[..., None]).sum()
            assert torch.allclose(label_scores(run.model, run.tokenizer, ["Hello world"], ["good"], None)[0, 0], wanted)
    finally:
        run.model.config = config
