"""Texts and pairs reach a model as transformers' tokenizer of the folder puts them: frames, token types, and sides."""

import json
import logging

import pytest
import tokenizers
import torch
import transformers

from flagai.data.prepare import bert
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError, VocabularyError
from flagai.model.bert_model import BertForMaskLM
from flagai.model.predictor import encoder_heads as reading
from tests.data.variants import byte_level, wordpiece

TEXTS = ["the quick brown fox", "Hello world! It's a new day", "lazy dog"]
PAIRS = [("the quick brown fox", "jumps over the lazy dog"), ("low lower", "newest"), ("Hello world", "the dog barks")]
_SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def write(folder, family, **options):
    """A small model of a family with transformers' tokenizer."""
    if family == "roberta":
        vocab, merges = byte_level()
        tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(vocab, key=vocab.__getitem__), "<mask>"]
        numbers = {token: number for number, token in enumerate(tokens)}
        pairs = [tuple(pair.split(" ")) for pair in merges]
        tokenizer = transformers.RobertaTokenizer(vocab=numbers, merges=pairs, **options)
        config = transformers.RobertaConfig(vocab_size=len(tokenizer), type_vocab_size=2, pad_token_id=1, **_SMALL)
        kind = transformers.RobertaForMaskedLM
    else:
        tokens = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], chinese=False)
        numbers = {token: number for number, token in enumerate(tokens)}
        tokenizer = transformers.BertTokenizer(vocab=numbers, **options)
        config = transformers.BertConfig(vocab_size=len(tokenizer), **_SMALL)
        kind = transformers.BertForMaskedLM
    torch.manual_seed(1)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)  # so that every token and every type counts
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_texts_and_pairs_give_the_numbers_of_transformers(family, side, tmp_path):
    model, tokenizer = write(tmp_path, family, truncation_side=side)
    ours, own = BertForMaskLM.from_pretrained(tmp_path), Tokenizer.from_folder(tmp_path)
    for entry in (*TEXTS, *PAIRS):
        for length in (9, 64):
            texts = [[text] for text in ([entry] if isinstance(entry, str) else entry)]
            right = model(**tokenizer(*texts, truncation=True, max_length=length, return_tensors="pt")).logits[0]
            (found,) = reading.per_token(ours, reading.rows(ours, own, [entry], length))
            torch.testing.assert_close(found, right, atol=1e-3, rtol=1e-4)


def test_ids_alone_have_the_same_frame_and_side(tmp_path):
    for family in ("roberta", "bert"):
        for side in ("right", "left"):
            write(tmp_path / family / side, family, truncation_side=side)
            tokenizer = Tokenizer.from_folder(tmp_path / family / side)
            for length in (5, 8, None):
                ragged = bert.id_rows(tokenizer, TEXTS, length)
                ids = [row.ids for row in bert.rows(tokenizer, TEXTS, length)]
                assert [values.tolist() for values in ragged.values] == [one for row in ids for one in row]


def test_the_side_is_that_of_tokenizer_json_where_nothing_else_says_it(tmp_path):
    write(tmp_path, "bert")
    for name, truncation in (("tokenizer.json", {"direction": "Left", "max_length": 9}), ("tokenizer_config.json", {})):
        content = json.loads((tmp_path / name).read_text())
        if name == "tokenizer.json":
            content["truncation"] = {"strategy": "LongestFirst", "stride": 0, **truncation}
        content.pop("truncation_side", None)
        (tmp_path / name).write_text(json.dumps(content))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).truncation_side == "left"
    assert Tokenizer.from_folder(tmp_path).truncation_side == "left"


def test_a_side_that_does_not_exist_is_named(tmp_path):
    write(tmp_path, "bert")
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": "middle"}))
    with pytest.raises(VocabularyError, match="truncation_side: 'middle', expected one of right, left"):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_without_special_tokens_is_no_berts(tmp_path):
    write(tmp_path, "bert")
    content = json.loads((tmp_path / "tokenizer.json").read_text()) | {"post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(InputError, match="one special token before a text and one behind it"):
        bert.rows(Tokenizer.from_folder(tmp_path), TEXTS)


def test_byte_level_tokens_without_a_blank_continue_a_word(tmp_path):
    write(tmp_path, "roberta")
    tokenizer = Tokenizer.from_folder(tmp_path)
    text = "Zürich unknownword,B52 今天"
    (row,) = bert.rows(tokenizer, [text])
    starts = [start for (start, end), inner in zip(row.offsets, row.inner, strict=True) if end > start and not inner]
    assert starts == [0, 7, 18, 19, 23, 24]
    assert row.inner[0] is row.inner[-1] is False


def test_metaspace_tokens_without_a_blank_continue_a_word(tmp_path):
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁un", -1.0), ("known", -1.0), ("▁", -2.0), ("w", -3.0)]
    model = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    model.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=model).save_pretrained(tmp_path)
    (row,) = bert.rows(Tokenizer.from_folder(tmp_path), ["unknown w"])
    assert row.offsets == [(0, 0), (0, 2), (2, 7), (7, 9), (0, 0)] or row.offsets[:3] == [(0, 0), (0, 2), (2, 7)]
    assert row.inner[:3] == [False, False, True]
    assert not any(row.inner[3:])


def test_entities_of_texts_cut_on_the_left_are_those_of_the_end(tmp_path, predictor, caplog):
    run = predictor("RoBERTa-base-ch", "BertForSequenceLabeling", class_num=3)
    labels, text = ["O", "B-X", "I-X"], "小明在北京大学读书"
    run.tokenizer.truncation_side = "left"
    try:
        with caplog.at_level(logging.WARNING):
            found = run.predict_ner(text, labels, 6)
        assert "not its characters before 5" in caplog.text
        assert found == [(start + 5, end + 5, kind) for start, end, kind in run.predict_ner(text[5:], labels)]
    finally:
        run.tokenizer.truncation_side = "right"
