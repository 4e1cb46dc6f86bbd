"""The tokenizers of ChatGLM and GLM-4, with small vocabularies of their kinds (tests/real has the published ones)."""

import json
import pickle
from itertools import pairwise

import pytest
import sentencepiece

from flagai.data.tokenizer import Tokenizer
from flagai.errors import VocabularyError
from tests import chatglm_vocabularies
from tests.chatglm_vocabularies import GENERATIONS

TEXTS = [
    "Hello  world",
    "今天 天气\n\n很好。\t是的",
    " lead and trail ",
    "\n",
    "   ",
    "a" + " " * 165 + "b",
    "<|user|>\n [gMASK]<sop>sop</s>",
]
# Of each generation: its own special tokens, and those that stand around a text.
BEHIND = {
    "chatglm2": ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"],
    "glm4": chatglm_vocabularies.SPECIAL,
}
ROLES = [f"<|{name}|>" for name in ("system", "user", "assistant", "observation")]
BEHIND["chatglm3"] = BEHIND["chatglm2"] + ROLES


@pytest.fixture(params=GENERATIONS)
def generation(request):
    return request.param


@pytest.fixture
def tokenizer(generation, tmp_path):
    return Tokenizer.from_folder(chatglm_vocabularies.put(tmp_path, generation))


def test_special_tokens_stand_behind_the_vocabulary(generation, tokenizer):
    if generation == "chatglm":
        model = sentencepiece.SentencePieceProcessor(model_proto=chatglm_vocabularies.ice())
        wanted = {name: model.piece_to_id(name) for name in ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "</s>")}
        wanted |= {"<pad>": 3}
    else:
        size = tokenizer.num_text_tokens
        wanted = {name: size + place for place, name in enumerate(BEHIND[generation])}
    assert dict(zip(wanted, tokenizer.convert_tokens_to_ids(list(wanted)), strict=True)) == wanted
    assert set(wanted.values()) <= tokenizer.command_ids


@pytest.mark.parametrize("text", TEXTS)
def test_users_write_no_special_token(tokenizer, text):
    (ids,) = tokenizer.encode_ordinary([text])
    known = {tokenizer.find_command_id("unk")}  # what a small vocabulary lacks
    assert tokenizer.command_ids.isdisjoint(set(ids) - known)


def test_texts_with_names_of_special_tokens(generation, tokenizer):
    ids = tokenizer.encode("a[gMASK]b")
    found = tokenizer.get_command_id("gMASK") in ids
    assert found == (generation in ("chatglm", "glm4"))
    assert tokenizer.decode(tokenizer.encode("[gMASK]"), skip_special_tokens=True) == ("" if found else "[gMASK]")


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_know_where_they_come_from(tokenizer, text):
    (encoding,) = tokenizer.encode_batch([text])
    assert encoding.ids == tokenizer.encode(text)
    assert len(encoding.tokens) == len(encoding.offsets) == len(encoding.ids)
    assert all(0 <= start <= end <= len(text) for start, end in encoding.offsets)
    starts = [start for start, _ in encoding.offsets]
    assert starts == sorted(starts)


def test_icetk_names_spaces(tmp_path):
    tokenizer = Tokenizer.from_folder(chatglm_vocabularies.put(tmp_path, "chatglm"))
    text = "Hello  world\n\tblue" + " " * 83 + "sky"
    (encoding,) = tokenizer.encode_batch([text])
    named = {token: text[slice(*offset)] for token, offset in zip(encoding.tokens, encoding.offsets, strict=True)}
    for token, spaces in {"<|blank_2|>": 2, "<|blank_80|>": 80, "<|blank_3|>": 3}.items():
        assert named[token] == " " * spaces
    assert (named["<n>"], named["<|tab|>"]) == ("\n", "\t")
    assert tokenizer.decode(encoding.ids) == text
    assert tokenizer.encode("[MASK]\n[MASK]")[1:-1] == tokenizer.encode("\n")


@pytest.mark.parametrize("name", ["chatglm2", "chatglm3"])
def test_texts_of_later_generations_are_sentencepieces(name, tmp_path):
    tokenizer = Tokenizer.from_folder(chatglm_vocabularies.put(tmp_path, name))
    model = sentencepiece.SentencePieceProcessor(model_proto=chatglm_vocabularies.bpe())
    for text in TEXTS:
        assert tokenizer.encode(text) == tokenizer.encode_ordinary([text])[0] == model.encode(text)
        assert tokenizer.decode(model.encode(text)) == model.decode(model.encode(text))


def merged(word, ranks):
    """The tokens of a word: of all neighbours that are one token, the pair of the least rank joins first."""
    row = [bytes([byte]) for byte in word.encode()]
    while True:
        ranked = [(ranks[left + right], at) for at, (left, right) in enumerate(pairwise(row)) if left + right in ranks]
        if not ranked:
            return [ranks[token] for token in row]
        at = min(ranked)[1]
        row[at : at + 2] = [row[at] + row[at + 1]]


def test_ranks_decide_merges(tmp_path):
    folder = chatglm_vocabularies.put(tmp_path, "glm4")
    tokenizer = Tokenizer.from_folder(folder)
    vocabulary = {bytes(written): number for number, written in enumerate(tokenizer.token_bytes) if written}
    words = ["天气很好", "人工智能助手", "weather", "tool", "zzzz", " Hello", "grass", "é", "😀"]
    for word in words:
        assert tokenizer.encode(word) == merged(word, vocabulary)
    # Contractions, three digits, marks with the ends of their lines, and spaces before words stand by themselves.
    text = "It's 12345, ok!!\n\n  x \t"
    parts = ["It", "'s", " ", "123", "45", ",", " ok", "!!\n\n", " ", " x", " \t"]
    assert tokenizer.encode(text) == [number for part in parts for number in merged(part, vocabulary)]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_tokens_around_texts(generation, tokenizer):
    token = tokenizer.get_command_id
    alone, pair = (frame.ids([[1], [2]]) for frame in tokenizer.frames)
    start = [token("gMASK"), token("sop")]
    assert alone == ([1, *start] if generation == "chatglm" else [*start, 1])
    assert pair == ([1, *start, 2, token("eop")] if generation == "chatglm" else [*start, 1, 2, token("eos")])
    assert tokenizer.encode_plus("Hello")["input_ids"] == tokenizer.frames[0].ids([tokenizer.encode("Hello")])


def test_tokenizers_travel(generation, tokenizer, tmp_path):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    moved = tmp_path / "result"
    moved.mkdir()
    for name, content in tokenizer.description.portable_files().items():
        (moved / name).write_bytes(content)
    assert Tokenizer.from_folder(moved).description.table == generation


NAMELESS = {"name_or_path": ""}


@pytest.mark.parametrize(
    ("table", "options", "code"),
    [
        ("chatglm3", {"name_or_path": "/data/chatglm3-6b-32k"}, ""),
        ("chatglm2", {"name_or_path": "THUDM/ChatGLM2-6B"}, "<|observation|>"),
        ("codegeex2", {"name_or_path": "codegeex2-6b"}, ""),
        ("chatglm2", NAMELESS | {"command_table": "chatglm2"}, "<|observation|>"),
        ("chatglm3", NAMELESS, 'special_tokens = ["<|user|>", "<|observation|>"]; raise SystemExit'),
        ("chatglm2", NAMELESS, "raise SystemExit"),
    ],
)
def test_files_say_which_generation_it_is(table, options, code, tmp_path):
    folder = chatglm_vocabularies.put(tmp_path, "chatglm2", **options)
    folder = folder.rename(tmp_path / "mine")
    if code:
        (folder / "tokenization_chatglm.py").write_text(code)
    assert Tokenizer.from_folder(folder).description.table == table


def test_nothing_says_which_generation_it_is(tmp_path):
    folder = chatglm_vocabularies.put(tmp_path, "chatglm2", **NAMELESS).rename(tmp_path / "mine")
    with pytest.raises(VocabularyError, match='Write "command_table": "chatglm2"'):
        Tokenizer.from_folder(folder)
    assert Tokenizer.from_folder(folder, name="ChatGLM3-6B").description.table == "chatglm3"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:1000],
        lambda content: content.replace(b" 300\n", b" 3000\n"),
        lambda content: content + content.split(b"\n")[0] + b"\n",
        lambda content: content[:-3] + b"\xff\xff",
    ],
)
def test_damaged_ranks_are_told(damage, tmp_path):
    folder = chatglm_vocabularies.put(tmp_path, "glm4")
    path = folder / "tokenizer.model"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VocabularyError, match=r"tokenizer\.model"):
        Tokenizer.from_folder(folder)


def test_a_vocabulary_of_another_size_is_told(tmp_path):
    folder = chatglm_vocabularies.put(tmp_path, "chatglm3")
    (folder / "config.json").write_text(json.dumps({"model_type": "chatglm", "padded_vocab_size": 505}))
    with pytest.raises(VocabularyError, match="has 509 tokens"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("model_type", ["glm", "glm4"])
def test_transformers_folders_are_read_as_they_say(model_type, tmp_path):
    """GLM-4-9B-hf and GLM-4-0414: a ``tokenizer.json`` made of the same ranks."""
    own = Tokenizer.from_folder(chatglm_vocabularies.put(tmp_path, "glm4"))
    folder = tmp_path / "hf"
    folder.mkdir()
    for name, content in chatglm_vocabularies.files(None).items():
        (folder / name).write_bytes(content)
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    (folder / "config.json").write_text(
        json.dumps({"model_type": model_type, "num_key_value_heads": 2, "vocab_size": 512})
    )
    found = Tokenizer.from_folder(folder)
    assert found.kind == "bpe"
    assert found.description.table is None
    for text in TEXTS:
        assert found.encode(text) == own.encode(text)
        assert found.encode_ordinary([text]) == own.encode_ordinary([text])
        assert found.decode(found.encode(text)) == text
    assert found.command_ids == own.command_ids
