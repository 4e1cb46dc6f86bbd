"""Ids, inputs and texts that FlagAI's, THUDM's and Hugging Face's tokenizers gave."""

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str, part: str = "rows") -> list[dict[str, Any]]:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))[part]


def dense(text: str) -> str:
    """A text without what decoders treat differently: blanks and the sign of a word's continuation."""
    return "".join(text.replace("##", "").split())


def test_chinese_glm_with_both_tables(load) -> None:
    fixed, unfixed = load("GLM-large-ch"), load("GLM-10b-ch")
    for row in golden("tok_glm_chinese"):
        assert fixed.encode(row["text"]) == row["ids_fixed"]
        assert unfixed.encode(row["text"]) == row["ids_unfixed"]
        assert fixed.decode(row["ids_fixed"]) == row["decode_thudm"]


def test_chinese_glm_equals_hugging_face(load) -> None:
    glm = load("GLM-large-ch")
    for row in golden("hf_glm_chinese", "tokenize"):
        assert [glm.get_command_id("cls"), *glm.encode(row["text"]), glm.get_command_id("eos")] == row["ids"]


def test_the_other_table_can_be_asked_for(load) -> None:
    assert load("GLM-large-ch", fix_command_token=False).get_command_id("gMASK") == 50007
    assert load("GLM-10b-ch", fix_command_token=True).get_command_id("gMASK") == 50009


def test_an_unfixed_end_of_piece_decodes_to_its_own_text(load) -> None:
    assert load("GLM-10b-ch").decode([50007]) == "<|endofpiece|>"


@pytest.mark.parametrize("name", ["GLM-large-en", "BERT-base-en"])
def test_english_wordpiece(load, name) -> None:
    tokenizer = load(name)
    for row in golden("tok_bert_english"):
        assert tokenizer.encode(row["text"]) == row["ids"]
        assert tokenizer.tokenize(row["text"]) == row["tokens"]
        assert tokenizer.decode(row["ids"]) == row["decode_current"]
        if name == "GLM-large-en":
            assert row["ids"] == row["thudm_glm_en_ids"]


@pytest.mark.parametrize("name", ["RoBERTa-base-ch", "GPT2-base-ch"])
def test_chinese_wordpiece(load, name) -> None:
    tokenizer = load(name)
    for row in golden("tok_bert_chinese"):
        assert tokenizer.encode(row["text"]) == row["ids"]
        assert tokenizer.tokenize(row["text"]) == row["tokens"]
        assert tokenizer.encode_plus(row["text"]) == row["encode_plus"]
        assert dense(tokenizer.decode(row["ids"])) == dense(row["decode_current"])


def test_rematch_finds_what_flagai_found(load) -> None:
    tokenizer = load("RoBERTa-base-ch")
    for row in golden("tok_bert_chinese"):
        found = tokenizer.rematch(row["text"], row["tokens"])
        if isinstance(row["rematch"], list):
            assert found == row["rematch"]
        else:
            assert len(found) == len(row["tokens"])


@pytest.mark.parametrize(
    ("name", "file"), [("RoBERTa-base-ch", "tok_bert_chinese"), ("BERT-base-en", "tok_bert_english")]
)
def test_pairs(load, name, file) -> None:
    for row in golden(file, "pairs"):
        sample = load(name).encode_plus(row["a"], row["b"], max_length=row["max_length"])
        expected = row["out"]
        if row["max_length"] is None or len(expected["input_ids"]) <= row["max_length"]:
            assert sample == expected
        else:
            assert len(sample["input_ids"]) == len(sample["token_type_ids"]) == row["max_length"]
            assert sample["input_ids"][-1] == 102


def test_unilm_pairs_keep_max_length(load) -> None:
    for row in golden("inputs_bert_seq2seq"):
        whole = load("RoBERTa-base-ch").encode_plus(row["a"], row["b"])
        sample = load("RoBERTa-base-ch").encode_plus(row["a"], row["b"], max_length=row["max_length"])
        assert len(sample["input_ids"]) == min(row["max_length"], len(whole["input_ids"]))
        if len(whole["input_ids"]) == len(row["out"]["input_ids"]):
            assert whole == row["out"]


def test_glm_byte_bpe(load) -> None:
    tokenizer = load("GLM-10b-en")
    for row in golden("tok_gpt2_glm_en"):
        assert tokenizer.encode(row["text"]) == row["ids_thudm"]
        assert tokenizer.decode(row["ids_thudm"]) == row["decode_thudm"]


def test_t5_pegasus_words_and_characters(load) -> None:
    words, characters = load("T5-base-ch"), load("T5-base-ch", segmenter="characters")
    for row in golden("tok_t5_pegasus"):
        assert words.encode(row["text"]) == row["jieba_ids"]
        assert words.tokenize(row["text"]) == row["jieba_tokens"]
        assert words.encode_plus(row["text"])["input_ids"] == row["jieba_encode_plus"]
        assert dense(words.decode(row["jieba_ids"])) == dense(row["jieba_decode_v1"])
        assert characters.encode(row["text"]) == row["char_ids"]
        assert dense(characters.decode(row["char_ids"])) == dense(row["char_decode_current"])


def test_t5(load) -> None:
    for row in golden("tok_t5_english"):
        assert load("T5-base-en").encode(row["text"]) == row["sp_ids"]
        assert load("T5-base-en").encode_plus(row["text"])["input_ids"] == row["hf_ids_with_eos"]


def test_glm_sequence_to_sequence(load) -> None:
    for row in golden("inputs_glm_seq2seq"):
        tokenizer = load(row.get("model", "GLM-large-ch"))
        assert tokenizer.encode_plus(row["source"], row["target"], max_length=row["max_length"]) == row["out"]


def test_glm_without_padding_ends_right_after_the_target(load) -> None:
    sample = load("GLM-large-ch").encode_plus("今天天气不错", target_text="晴", max_length=12, padding=False)
    assert sample["target_ids"] == [3378, 4416, 560, 50001, 34097, 50007]
