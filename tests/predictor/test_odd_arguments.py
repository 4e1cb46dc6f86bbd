"""What makes no sense is refused by name; what makes some has a result; nothing fails from inside."""

import pytest
import torch

from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.model.predictor.predictor import Predictor
from tests import folders

LABELS = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]


@pytest.fixture
def writer(predictor):
    return predictor("GPT2-base-ch", "GPT2Model")


@pytest.mark.parametrize("wrong", [None, 5, b"abc", {"a": 1}, {"a"}], ids=repr)
def test_what_is_no_text_is_named(wrong, predictor, writer):
    ner = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=7)
    embedder = predictor("RoBERTa-base-ch", "BertForEmbedding")
    classifier = predictor("RoBERTa-base-ch", "BertForClsClassifier", class_num=2)
    filler = predictor("RoBERTa-base-ch", "BertForMaskLM")
    for call in (
        writer.write,
        lambda text: ner.predict_ner(text, LABELS),
        embedder.predict_embedding,
        classifier.predict_cls_classifier,
        filler.fill_blanks,
        filler.predict_masklm,
    ):
        with pytest.raises(InputError, match=f"found {type(wrong).__name__}"):
            call(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bad_words": 5}, "bad_words is 5"),
        ({"stop": 5}, "stop is 5"),
        ({"logits_processors": 5}, "logits_processors is 5; expected a list of functions"),
        ({"logits_processors": [5]}, "logits_processors is"),
        ({"seed": 2**70}, "below"),
        ({"input_max_length": "256"}, "input_max_length is '256'"),
        ({"input_max_length": 3.5}, "input_max_length is 3.5"),
        ({"out_max_length": "3"}, "out_max_length is '3'"),
        ({"out_max_length": None}, "out_max_length is None"),
    ],
    ids=str,
)
def test_options_of_a_wrong_type_are_named(writer, options, message):
    with pytest.raises(InputError, match=message):
        writer.predict_generate_randomsample("今天", **{"out_max_length": 3} | options)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["😀"], "cannot write"), ([" "], "cannot write"), (["春江花月夜"], "Raise out_max_length")],
    ids=str,
)
def test_words_that_cannot_be_forced_are_named(writer, words, message):
    with pytest.raises(InputError, match=message):
        writer.predict_generate_beamsearch("今天", out_max_length=3, beam_size=2, force_words=words)


@pytest.mark.parametrize("name", ["GLM-large-ch", "T5-base-en", "GPT2-base-ch"])
def test_bad_words_that_cannot_be_written_change_nothing(name, predictor):
    class_name = {"GLM": "GLMForSeq2Seq", "T5-": "T5Model", "GPT": "GPT2Model"}[name[:3]]
    run = predictor(name, class_name)
    plain = run.write("今天", out_max_length=4)
    assert run.write("今天", out_max_length=4, bad_words=["😀", " ", "\ud800", "\x00"]) == plain


@pytest.mark.parametrize(
    ("name", "class_name", "size"),
    [
        ("GLM-large-ch", "GLMForSeq2Seq", 50048),
        ("GLM-large-ch", "GLMModel", 50048),
        ("GLM-large-en", "GLMForSeq2Seq", 30592),
        ("T5-base-en", "T5Model", 32128),
        ("GPT2-base-en", "GPT2Model", 50304),
        ("RoBERTa-base-ch", "BertForSeq2seq", 30000),
    ],
)
def test_rows_without_a_token_are_never_written(name, class_name, size, predictor):
    run = predictor(name, class_name, vocab_size=size)
    nothing = run.tokenizer.rows_without_token(size)
    assert size - 1 in nothing
    assert (50005 in nothing) == (name == "GLM-large-ch")
    allowed = []

    def look(_, scores):
        allowed.append(scores[..., nothing].isfinite().any().item())
        return scores

    run.predict_generate_beamsearch("hello", out_max_length=2, beam_size=2, logits_processors=[look])
    assert allowed
    assert not any(allowed)


def test_masks_are_not_filled_with_rows_without_a_token(predictor):
    run = predictor("RoBERTa-base-ch", "BertForMaskLM", vocab_size=60000)
    texts = ["今天[MASK]天气很好[MASK]", "[MASK]" * 20]
    for answers in run.fill_blanks(texts, num_return_sequences=20):
        assert all(filling for answer in answers for filling in answer.fillings)
    assert all(run.predict_masklm(texts))


def test_a_mask_behind_what_the_model_reads_is_named(predictor):
    with pytest.raises(InputError, match="Only 1 of the blanks"):
        predictor("RoBERTa-base-ch", "BertForMaskLM").fill_blanks("[MASK]" + "今" * 300 + "[MASK]")


def test_options_that_mean_nothing_to_a_bert_are_named(predictor):
    with pytest.raises(InputError, match="temperature, bad_words has no meaning"):
        predictor("RoBERTa-base-ch", "BertForMaskLM").fill_blanks("今[MASK]", temperature=2.0, bad_words=["天"])


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("GLM-large-ch", "GLMForSequenceClassification"), ("RoBERTa-base-ch", "BertForClsClassifier")],
)
def test_names_of_classes_are_checked(name, class_name, predictor):
    run = predictor(name, class_name, class_num=2)
    assert run.class_probabilities(["今天"], labels=["好", "坏"]).shape == (1, 2)
    for labels, message in (
        (["好"], "1 labels"),
        ("好坏", "labels is"),
        (["好", "好"], "different"),
        ([1, 2], "names"),
    ):
        with pytest.raises(InputError, match=message):
            run.predict_cls_classifier("今天", labels=labels)
    with pytest.raises(InputError, match="put the single text into a list"):
        run.class_probabilities("今天")


LONG = "今天天气不错。" * 400


def test_texts_longer_than_the_model_are_cut(predictor):
    """Also where more is asked for than the model has positions."""
    assert predictor("GLM-large-ch", "GLMForSequenceClassification", class_num=2).predict_cls_classifier(LONG) in (0, 1)
    for name, class_name in (
        ("GLM-large-ch", "GLMModel"),
        ("GLM-large-ch", "GLMForSeq2Seq"),
        ("GPT2-base-ch", "GPT2Model"),
        ("RoBERTa-base-ch", "BertForSeq2seq"),
    ):
        run = predictor(name, class_name)
        assert run.predict_cls_classifier(LONG, labels=["好", "不好"]) in (0, 1)
        assert run.predict_embedding(LONG, maxlen=10**6).shape == (12,)
        assert torch.equal(run.predict_embedding(LONG, maxlen=None), run.predict_embedding(LONG, maxlen=10**6))


@pytest.mark.parametrize("maxlen", [0, -5, "a", 3.5, True], ids=repr)
def test_impossible_lengths_are_named(maxlen, predictor):
    ner = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=7)
    with pytest.raises(InputError, match="maxlen is"):
        ner.predict_ner("今天", LABELS, maxlen=maxlen)


@pytest.mark.parametrize("target", [5, set(LABELS), {"O": 1}], ids=["number", "set", "dict"])
def test_labels_have_an_order(target, predictor):
    ner = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=7)
    with pytest.raises(InputError, match="expected a list of names"):
        ner.predict_ner("今天", target)


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("RoBERTa-base-ch", "BertForEmbedding"), ("RoBERTa-base-ch", "BertForSeq2seq"), ("T5-base-en", "T5Model")],
)
def test_texts_may_mention_commands_of_other_models(name, class_name, predictor):
    run = predictor(name, class_name)
    text = "今天[gMASK]<|startofpiece|>[sMASK]"
    assert run.predict_embedding(text).shape == (12,)
    if class_name != "BertForEmbedding":
        assert isinstance(run.write(text, out_max_length=2), str)


def test_a_shared_row_is_a_mask_in_a_prompt(vocabularies_home):
    """GLM-10b-ch was trained with one row for [gMASK] and <|endofpiece|>."""
    tokenizer = Tokenizer.from_folder(vocabularies_home / "GLM-10b-ch", fix_command_token=False)
    assert tokenizer.get_command_id("gMASK") == tokenizer.get_command_id("eop") == 50007
    run = Predictor(folders.model("GLM-large-ch", "GLMModel"), tokenizer)
    written = run.predict_generate_randomsample("早[MASK]上，[gMASK]", out_max_length=3, seed=1)
    assert written.startswith("[CLS]早[MASK]上,[gMASK]<|startofpiece|>")
    assert "<|endofpiece|>" not in written
    (filled,) = run.fill_blanks("早[MASK]上，[gMASK]", out_max_length=3)
    assert len(filled.fillings) == 2
    assert all(filled.fillings)


def test_the_coldest_temperature_takes_the_best(writer):
    found = writer.predict_generate_randomsample("今天", out_max_length=4, temperature=1e-40, seed=1)
    assert found == writer.write("今天", out_max_length=4)


def test_no_piece_of_a_stream_is_empty(writer):
    assert all(writer.stream("今天", out_max_length=8))


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("GLM-large-ch", "GLMModel"),
        ("GLM-large-ch", "GLMForSeq2Seq"),
        ("T5-base-en", "T5Model"),
        ("GPT2-base-ch", "GPT2Model"),
        ("RoBERTa-base-ch", "BertForSeq2seq"),
    ],
)
def test_labels_that_the_vocabulary_does_not_know_are_named(predictor, name, class_name):
    run = predictor(name, class_name)
    with pytest.raises(InputError, match=r"labels has \['😀'\], which the model's vocabulary does not know"):
        run.predict_cls_classifier("a good day", labels=["good", "😀"])
    with pytest.raises(InputError, match=r"the same tokens"):
        run.predict_cls_classifier("a good day", labels=["good 😀", "good 😁"])
