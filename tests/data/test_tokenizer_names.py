"""FlagAI's method names, and what decoding makes of ids."""

import pytest

from flagai.catalog.catalog import find
from flagai.errors import InputError
from tests.vocabularies import FILES


@pytest.mark.parametrize("name", FILES)
def test_command_tokens_are_those_of_the_card(load, name) -> None:
    tokenizer = load(name)
    for command, number in find(name).tokenizer.tokens.items():
        assert tokenizer.get_command_id(command) == number
        assert tokenizer.command_name_map[command].Id == number
        assert tokenizer.command_token_map[tokenizer.command_id_map[number].token].Id == number
        assert number in tokenizer.command_ids
        assert number < tokenizer.vocab_size == tokenizer.num_tokens == len(tokenizer)


def test_command_tokens_by_other_names(load) -> None:
    glm = load("GLM-large-ch")
    assert (glm.get_command_id("ENC"), glm.get_command_id("MASK")) == (50002, 50003)
    assert glm.get_command("ENC").token == "[CLS]"
    assert glm.find_command_id("bos") is None
    with pytest.raises(InputError, match=r"'gmask'.*gMASK"):
        glm.get_command_id("gmask")


def test_command_token_ids_with_exceptions(load) -> None:
    glm = load("GLM-large-ch")
    assert set(glm.CommandTokenIds()) == glm.command_ids
    left = set(glm.CommandTokenIds(exception=["eop", "gMASK"]))
    assert glm.command_ids - left == {50007, 50009}


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("RoBERTa-base-ch", 101, 102),
        ("GLM-large-ch", 50002, 50000),
        ("T5-base-en", 0, 1),
        ("GPT2-base-en", 50256, 50256),
    ],
)
def test_start_and_end(load, name, start, end) -> None:
    assert (load(name).token_start_id, load(name).token_end_id) == (start, end)


def test_tokens_and_ids(load) -> None:
    glm = load("GLM-large-ch")
    assert glm.TokenToId("人") == 43371
    assert (glm.TokenToId("▁不是"), glm.TokenToId("[gMASK]"), glm.TokenToId("no such piece")) == (2350, 50009, 0)
    assert glm.IdToToken(3378) == glm.IdToToken(glm.TokenToId("▁今天")) == "▁今天"
    assert glm.IdToToken(glm.command_name_map["sop"]) == "<|startofpiece|>"
    assert load("RoBERTa-base-ch").convert_tokens_to_ids(["今", "no such token"]) == [791, 100]
    assert glm.get_vocab()["▁今天"] == 3378
    assert len(glm.get_vocab()) == glm.num_text_tokens == 50000
    assert glm.DecodeTokens(["▁今天", "吃饭"]) == "今天吃饭"


def test_flagai_names_do_the_same(load) -> None:
    tokenizer = load("RoBERTa-base-ch")
    text = "Is 今天 [MASK]？"
    assert tokenizer.EncodeAsIds(text) == tokenizer.text_tokenizer.encode(text) == tokenizer.encode(text)
    assert tokenizer.EncodeAsIds(text, str.upper) == tokenizer.encode(text.upper())
    assert tokenizer.EncodeAsTokens(text) == tokenizer.tokenize(text) == ["is", "今", "天", "[MASK]", "？"]
    assert tokenizer.DecodeIds(tokenizer.encode(text)) == "is今天[MASK]？"


def test_tokenize_keeps_maxlen_and_the_last_token(load) -> None:
    tokenizer = load("RoBERTa-base-ch")
    assert tokenizer.tokenize("今天好", maxlen=2) == ["今", "天"]
    assert tokenizer.tokenize("今天好", maxlen=4, add_spatial_tokens=True) == ["[CLS]", "今", "天", "[SEP]"]
    with pytest.raises(InputError, match="maxlen=1"):
        tokenizer.tokenize("今天好", maxlen=1, add_spatial_tokens=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("在2024年用iPhone 15 Pro拍了照片。", "在2024年用iphone 15 pro拍了照片。"),
        ("Hello, world! It is 3.5% (or so).", "hello, world! it is 3.5% (or so)."),
        ("6,999.00元 at 15:30", "6,999.00元at 15:30"),
        ("中文，English words，中文", "中文，english words，中文"),
        ("tokenization's", "tokenization's"),
        ("[MASK][MASK]是 [MASK] the", "[MASK][MASK]是[MASK]the"),
    ],
)
def test_chinese_text_is_written_without_spaces(load, text, expected) -> None:
    tokenizer = load("RoBERTa-base-ch")
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert tokenizer.decode(tokenizer.encode(expected)) == expected


def test_special_tokens_are_left_out_on_request(load) -> None:
    bert, glm, t5 = load("RoBERTa-base-ch"), load("GLM-large-ch"), load("T5-base-en")
    assert bert.decode([101, 791, 1921, 102, 0, 0], skip_special_tokens=True) == "今天"
    assert glm.decode([50006, 3378, 50001, 50007, 50000], skip_special_tokens=True) == "今天"
    assert glm.decode(glm.encode("Is [MASK] the capital"), skip_special_tokens=True) == "Is the capital"
    assert t5.decode(t5.encode_plus("Hello world")["input_ids"], skip_special_tokens=True) == "Hello world"


def test_t5_sentinels(load) -> None:
    t5 = load("T5-base-en")
    ids = t5.encode("The <extra_id_0> walks<extra_id_99>")
    assert [number for number in ids if number >= 32000] == [32099, 32000]
    assert t5.decode(ids) == "The<extra_id_0> walks<extra_id_99>"
    assert t5.get_command_id("extra_id_0") == 32099
