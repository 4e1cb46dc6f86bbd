"""A folder is what its files say; its name decides only what they leave open, and damage is named."""

import copy
import json
import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers

from flagai.auto_model.auto_loader import AutoLoader
from flagai.catalog.card import MODEL_TYPES
from flagai.catalog.packages import find_model
from flagai.data.tokenizer import Tokenizer
from flagai.data.tokenizer.jieba_engine import jieba_segmenter
from flagai.data.tokenizer.saved import Saved
from flagai.data.tokenizer.vocabulary import vocabulary_errors
from flagai.errors import FlagAIError, ModelNotFoundError, VocabularyError
from flagai.families.config_content import family_of
from flagai.families.family import family_named
from tests import vocabularies
from tests.data.variants import Variant

NAMES = ["mine", "GLM-10b-ch", "glm-10b-chinese", "GLM-LARGE-CH", "gpt2", "t5-base", "bert-base-chinese", "T5-base-ch"]
PIECES = "今天 Hello, world [MASK] [gMASK]吃饭 isn't <extra_id_1> ΟΔΟΣ"


def files_of(name: str, home: Path, **beside: Any) -> Path:
    folder = vocabularies.put(home, name) / name
    for file, content in beside.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    return folder


GLM = {"[gMASK]": 50009, "<|endofpiece|>": 50007}
FOLDERS = {
    "THUDM's class": ("GLM-10b-ch", {"tokenizer_config": {"tokenizer_class": "GLMChineseTokenizer"}}),
    "THUDM's added tokens": ("GLM-10b-ch", {"added_tokens": GLM, "config": {"model_type": "glm"}}),
    "THUDM's code": ("GLM-10b-ch", {"config": {"model_type": "glm", "auto_map": {"AutoModel": "modeling_glm.GLM"}}}),
    "a Chinese GPT-2": ("GPT2-base-ch", {"config": {"model_type": "gpt2", "vocab_size": 21128}}),
    "an English BERT": ("BERT-base-en", {"config": {"model_type": "bert", "vocab_size": 30522}}),
    "a BERT of transformers": ("BERT-base-en", {"tokenizer_config": {"tokenizer_class": "BertTokenizer"}}),
    "a GPT-2": ("GPT2-base-en", {"config": {"model_type": "gpt2", "vocab_size": 50257}}),
    "a T5": ("T5-base-en", {"config": {"model_type": "t5", "vocab_size": 32128}}),
    "a T5-PEGASUS": ("T5-base-ch", {"config": {"model_type": "t5", "vocab_size": 50000}}),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_the_same_files_under_any_name_are_the_same_tokenizer(tmp_path, what) -> None:
    name, beside = FOLDERS[what]
    folder = files_of(name, tmp_path, **beside)
    found = {}
    for other in NAMES:
        target = tmp_path / "other" / other
        shutil.copytree(folder, target)
        tokenizer = Tokenizer.from_folder(target)
        ids = tokenizer.encode(PIECES)
        found[other] = (tokenizer.kind, ids, tokenizer.decode(ids), tokenizer.encode_plus("今天 a"))
    assert all(value == found["mine"] for value in found.values()), found


def test_a_name_decides_what_files_leave_open_and_the_log_says_so(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="flagai")
    folder = files_of("GLM-10b-ch", tmp_path)
    assert Tokenizer.from_folder(folder).get_command_id("gMASK") == 50007
    assert [record.message for record in caplog.records if "the name 'GLM-10b-ch' decides" in record.message]
    folder.rename(tmp_path / "x")
    assert Tokenizer.from_folder(tmp_path / "x").get_command_id("gMASK") == 50009


def test_a_card_that_the_files_contradict_is_left_out_with_a_line(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="flagai")
    folder = files_of("GPT2-base-ch", tmp_path, config={"model_type": "gpt2", "vocab_size": 21128})
    tokenizer = Tokenizer.from_folder(folder, "gpt2")
    assert tokenizer.kind == "wordpiece"
    assert "is read as its files say, not as gpt2" in caplog.text


def test_folders_in_another_case_are_found(tmp_path) -> None:
    (tmp_path / "Mine").mkdir()
    assert find_model("mine", tmp_path) == tmp_path / "Mine"
    transformers.BertConfig(
        vocab_size=21128, hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8
    ).save_pretrained(tmp_path / "roberta-BASE-ch")
    shutil.copy(
        vocabularies.put(tmp_path / "v", "RoBERTa-base-ch") / "RoBERTa-base-ch" / "vocab.txt",
        tmp_path / "roberta-BASE-ch",
    )
    loader = AutoLoader("lm", model_name="RoBERTa-base-ch", model_dir=tmp_path, only_download_config=True, device="cpu")
    assert loader.get_model().config.hidden_size == 8
    assert loader.get_tokenizer().encode("今") == [791]


# -- what does not belong together ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "beside", "message"),
    [
        ("BERT-base-en", {"config": {"model_type": "bert", "vocab_size": 30000}}, "vocab_size=30000"),
        ("GPT2-base-en", {"config": {"model_type": "gpt2", "vocab_size": 99999}}, "vocab_size=99999"),
        ("BERT-base-en", {"added_tokens": {"[E1]": 40000}}, r"'\[E1\]' has the id 40000"),
        ("BERT-base-en", {"added_tokens": {"the": 30522}}, "'the' has the id 30522"),
        ("GLM-large-en", {"config": {"model_type": "glm"}, "added_tokens": {"[gMASK]": 30522}}, "should have the id"),
        ("GPT2-base-en", {"config": {"model_type": "roberta"}}, "lacks <s>, </s>"),
        ("T5-base-en", {"config": {"model_type": "gpt2"}}, "SentencePiece vocabulary of a gpt2"),
        ("T5-base-en", {"tokenizer_config": {"tokenizer_class": "XLMRobertaTokenizer"}}, "'XLMRobertaTokenizer'"),
        ("BERT-base-en", {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer"}}, "GPT2Tokenizer has vocab.json"),
        ("BERT-base-en", {"tokenizer_config": {"do_basic_tokenize": False}}, "do_basic_tokenize"),
        ("BERT-base-en", {"tokenizer_config": {"cls_token": "<cls>"}}, "lacks <cls>"),
    ],
)
def test_files_that_contradict_each_other_are_refused(tmp_path, name, beside, message) -> None:
    with pytest.raises(VocabularyError, match=message):
        Tokenizer.from_folder(files_of(name, tmp_path, **beside))


def test_added_tokens_of_a_sentencepiece_folder(tmp_path) -> None:
    added = {"<sep>": 32100, "word": 32101}
    special = {"additional_special_tokens": ["<sep>"]}
    folder = files_of("T5-base-en", tmp_path, added_tokens=added, special_tokens_map=special)
    tokenizer = Tokenizer.from_folder(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    ids = tokenizer.encode("title<sep>text word")
    assert ids == [*pieces.encode("title"), 32100, *pieces.encode("text"), 32101]
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["title", "textword"]
    assert tokenizer.vocab_size == 32102


def test_glm_roberta_knows_thudms_spellings(tmp_path) -> None:
    folder = files_of("GPT2-base-en", tmp_path)
    vocab = json.loads((folder / "vocab.json").read_text())
    order = [token for token in sorted(vocab, key=vocab.__getitem__) if token != "<|endoftext|>"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *order, "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "config.json").write_text('{"model_type": "glm"}')
    tokenizer = Tokenizer.from_folder(folder)
    mask = tokens.index("<mask>")
    ids = tokenizer.encode("is [MASK] a <mask>[CLS][SEP]<|startofpiece|>")
    assert [number for number in ids if number in (0, 2, mask, mask + 1)] == [mask, mask, 0, 2, mask + 1]
    assert tokenizer.decode([ids[0], mask]) == "is[MASK]"
    assert tokenizer.vocab_size == mask + 3
    encoding = tokenizer.encode_batch(["is [MASK] a"])[0]
    assert encoding.offsets[encoding.ids.index(mask)] == (3, 9)


# -- damage ----------------------------------------------------------------------------------------------------------

ODD = [
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    "",
    "x",
    [],
    {},
    [None],
    ["a"],
    [[]],
    {"a": None},
    {"content": 1},
    "\x00",
    [{"id": -1}],
]


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every value of a JSON document; of long lists and vocabularies the first few."""
    found = [path] if path else []
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(entries)[:12]:
        found += places(value, (*path, key))
    return found


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(document)
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return document


@pytest.mark.parametrize("seed", [2, 3, 6, 36])
def test_every_json_value_may_be_anything(tmp_path, seed) -> None:
    (folder := tmp_path / "x").mkdir()
    Variant(seed, folder)
    chance = random.Random(seed)
    for path in sorted(folder.glob("*.json")):
        written = path.read_bytes()
        document = json.loads(written)
        cases = [(place, value) for place in places(document) for value in ODD]
        for place, value in chance.sample(cases, min(len(cases), 30)):
            path.write_text(json.dumps(changed(document, place, value)))
            try:
                tokenizer = Tokenizer.from_folder(folder)
                tokenizer.decode(tokenizer.encode_plus("Hello 今天 [E1]", "b")["input_ids"])
                tokenizer.encode_batch(["Hello"])[0].offsets  # noqa: B018  # it is computed
            except FlagAIError:
                pass
        path.write_bytes(written)


@pytest.mark.parametrize("name", ["GLM-large-ch", "BERT-base-en", "GPT2-base-en", "T5-base-en"])
def test_damaged_vocabularies_raise_our_errors_only(tmp_path, name) -> None:
    folder = files_of(name, tmp_path)
    chance = random.Random(name)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for damage in range(3):
            content = bytearray(whole[: chance.randrange(len(whole))] if damage % 2 else whole)
            for _ in range(damage):
                if content:
                    content[chance.randrange(min(len(content), 4000))] = chance.randrange(256)
            path.write_bytes(content)
            try:
                tokenizer = Tokenizer.from_folder(folder, segmenter="characters" if name == "T5-base-ch" else None)
                tokenizer.decode(tokenizer.encode("Hello 今天"))
            except FlagAIError:
                pass
        path.write_bytes(whole)


def test_a_panic_becomes_our_error_and_an_interrupt_does_not() -> None:
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    with pytest.raises(VocabularyError, match="x cannot be read: index out of bounds"), vocabulary_errors(Path("x")):
        raise panic("index out of bounds")
    with pytest.raises(KeyboardInterrupt), vocabulary_errors(Path("x")):
        raise KeyboardInterrupt


def test_a_damaged_file_is_no_absent_one() -> None:
    assert not issubclass(VocabularyError, FileNotFoundError | ModelNotFoundError)


# -- words of T5-PEGASUS -------------------------------------------------------------------------------------------


def test_words_are_those_of_jieba() -> None:
    import jieba

    chance = random.Random(0)
    parts = ["今天天气", "不错", "a", "B2B", "AA制", "T恤", "12", " ", "\r\n", "😀", "3.5%", "C++", "，", "的", "X光"]
    for _ in range(60):
        text = "".join(chance.choice(parts) for _ in range(chance.randint(0, 12)))
        assert list(jieba_segmenter()(text)) == list(jieba.cut(text, HMM=False)), text


@pytest.mark.parametrize(("family", "model_type"), [(key, each) for key, own in MODEL_TYPES.items() for each in own])
def test_tokenizers_and_models_know_the_same_model_types(family: str, model_type: str, tmp_path: Path) -> None:
    keys = {"chatglm": {"inner_hidden_size": 4}, "chatglm2": {"num_key_value_heads": 2}}  # they share names
    config = {"model_type": model_type.upper()} | keys.get(family, {"num_layers": 2})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Saved.read(tmp_path).family == family == family_of(config)
    assert model_type in family_named(family).load(family_named(family).classes[0].name).config_class.model_types
