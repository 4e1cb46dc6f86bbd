"""A tokenizer's files in a folder of another name are the same tokenizer."""

import json

import pytest

from flagai.convert import convert
from flagai.data.tokenizer import Tokenizer
from flagai.errors import VocabularyError
from flagai.train.output import put_files
from tests import folders, vocabularies

CLASSES = {
    "GLM-large-ch": "GLMModel",
    "GLM-10b-ch": "GLMModel",
    "GLM-large-en": "GLMModel",
    "GLM-10b-en": "GLMModel",
    "RoBERTa-base-ch": "BertModel",
    "BERT-base-en": "BertModel",
    "GPT2-base-ch": "GPT2Model",
    "GPT2-base-en": "GPT2Model",
    "T5-base-ch": "T5Model",
    "T5-base-en": "T5Model",
}
SIZES = {"GLM-10b-ch": folders.SIZES["GLM-large-ch"], "GLM-10b-en": {"vocab_size": 50304, "max_sequence_length": 256}}
TEXT = "Hello world, it's 今天 [gMASK] [MASK] </s> fine ."


def source(home, name):
    sizes = folders.SIZES.get(name) or SIZES[name]
    made = folders.tiny.build(CLASSES[name], **sizes)
    vocabularies.put(home, name)
    made.save_pretrained(home / name)
    return made


def same(ours, right):
    ids = right.encode(TEXT)
    assert ours.encode(TEXT) == ids
    assert ours.encode_plus(TEXT, "fine") == right.encode_plus(TEXT, "fine")
    assert ours.decode(ids) == right.decode(ids)
    assert ours.command_name_map == right.command_name_map
    assert (ours.kind, ours.description.table, ours.truncation_side) == (
        right.kind,
        right.description.table,
        right.truncation_side,
    )


@pytest.mark.parametrize("name", CLASSES)
def test_the_folder_of_a_training_has_the_tokenizer_of_its_base(name, tmp_path):
    model = source(tmp_path, name)
    right = Tokenizer.from_pretrained(name, tmp_path)
    model.save_pretrained(tmp_path / "mine")
    put_files(right.description.portable_files(), tmp_path / "mine")
    same(Tokenizer.from_folder(tmp_path / "mine"), right)


@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
@pytest.mark.parametrize("name", ["GLM-10b-ch", "GLM-large-ch", "BERT-base-en"])
def test_a_converted_folder_has_the_tokenizer_of_its_source(name, layout, tmp_path):
    source(tmp_path, name)
    convert(tmp_path / name, tmp_path / "mine", layout=layout)
    same(Tokenizer.from_folder(tmp_path / "mine"), Tokenizer.from_pretrained(name, tmp_path))


def test_a_callers_choice_is_kept_and_files_that_say_it_are_not_changed(tmp_path):
    folder = vocabularies.put(tmp_path, "GLM-10b-ch") / "GLM-10b-ch"
    for fixed, number in ((True, 50009), (False, 50007)):
        (out := tmp_path / str(fixed)).mkdir()
        put_files(Tokenizer.from_folder(folder, fix_command_token=fixed).description.portable_files(), out)
        assert Tokenizer.from_folder(out).get_command_id("gMASK") == number
    content = {"[gMASK]": 50007, "<|endofpiece|>": 50007}
    (folder / "added_tokens.json").write_text(json.dumps(content))
    (out := tmp_path / "stated").mkdir()
    put_files(Tokenizer.from_folder(folder).description.portable_files(), out)
    assert sorted(path.name for path in out.iterdir()) == ["added_tokens.json", "spiece.model"]
    assert Tokenizer.from_folder(out).get_command_id("gMASK") == 50007


def test_every_file_beside_a_vocabulary_is_carried(tmp_path):
    folder = vocabularies.put(tmp_path, "BERT-base-en") / "BERT-base-en"
    beside = {
        "special_tokens_map.json": {"cls_token": "[CLS]"},
        "added_tokens.json": {"[NEW]": 30522},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "truncation_side": "left"},
    }
    for name, content in beside.items():
        (folder / name).write_text(json.dumps(content))
    (out := tmp_path / "mine").mkdir()
    put_files(Tokenizer.from_folder(folder).description.portable_files(), out)
    for name in (*beside, "vocab.txt"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_a_table_that_does_not_exist_is_named(tmp_path):
    folder = vocabularies.put(tmp_path, "BERT-base-en") / "BERT-base-en"
    (folder / "tokenizer_config.json").write_text(json.dumps({"command_table": "wordpieces"}))
    with pytest.raises(VocabularyError, match="command_table: 'wordpieces' is not one of fixed, unfixed, wordpiece"):
        Tokenizer.from_folder(folder)
