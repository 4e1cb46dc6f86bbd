"""Every token says where it is in the original text."""

import io
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flagai.data.tokenizer import Tokenizer
from tests.vocabularies import FILES

PIECES = [
    "今天",
    "吃饭",
    "[MASK]",
    " [gMASK]",
    "<extra_id_0>",
    "Hello",
    " ",
    "\n",
    "é",
    "e\u0301",
    "ｶﾞ",
    "１２",
    "…",
    "㎏",
    "½",
]
PIECES += [
    "😀",
    "👨\u200d👩",
    "龘",
    "𠮷",
    "\x00",
    "\ud800",
    "\ufeff",
    "한",
    "ﷺ",
    "ΣΑΣ",
    "<n>",
    "，",
    "##",
    "▁",
    "\u3000",
    "ß",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join)
# Not every tokenizer keeps blanks (for SentencePiece, "▁" is one), so only what is visible must be covered.
UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zs", "Zl", "Zp", "Mn", "Me", "Mc")


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_offsets_are_places_in_the_text(load, name, text) -> None:
    tokenizer = load(name)
    encoding = tokenizer.encode_batch([text])[0]
    assert encoding.ids == tokenizer.encode(text)
    assert len(encoding.ids) == len(encoding.tokens) == len(encoding.offsets)
    previous = 0
    for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
        assert previous <= start <= end <= len(text)
        assert start < end or token == "▁"  # the blank that SentencePiece puts before every text
        previous = start
    covered = {index for start, end in encoding.offsets for index in range(start, end)}
    missed = [char for index, char in enumerate(text) if index not in covered]
    assert not [char for char in missed if unicodedata.category(char) not in UNSEEN and char not in "\ufffd▁"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("GLM-large-ch", "价格…３元", [("▁价格", "价格"), ("...", "…"), ("3", "３"), ("元", "元")]),
        ("GLM-large-ch", "x½", [("▁x", "x"), ("1", "½"), ("⁄", "½"), ("2", "½")]),
        ("GLM-large-ch", "北京 [MASK]好", [("▁北京", "北京"), ("[MASK]", "[MASK]"), ("▁好", "好")]),
        ("RoBERTa-base-ch", "😀Café\u200b在 ＡＢ", [("[UNK]", "😀Café"), ("在", "在"), ("ａ", "Ａ"), ("##ｂ", "Ｂ")]),
        ("RoBERTa-base-ch", "é한", [("e", "é"), ("##ᄒ", "한"), ("##ᅡ", "한"), ("##ᆫ", "한")]),
        (
            "T5-base-ch",
            "今天😀吃饭Pros",
            [("今天", "今天"), ("[UNK]", "😀"), ("吃饭", "吃饭"), ("pro", "Pro"), ("##s", "s")],
        ),
        ("GLM-10b-en", "is  [MASK]é", [("is", "is"), ("[MASK]", "[MASK]"), ("Ã©", "é")]),
        (
            "T5-base-en",
            "a<extra_id_0> b",
            [("▁", ""), ("a", "a"), ("<extra_id_0>", "<extra_id_0>"), ("▁", ""), ("b", "b")],
        ),
    ],
)
def test_where_tokens_come_from(load, name, text, expected) -> None:
    encoding = load(name).encode_batch([text])[0]
    found = [(token, text[start:end]) for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)]
    assert found == expected


def test_bytes_of_one_character_share_its_place(tmp_path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world", "the world says hello"] * 50),
        model_writer=model,
        vocab_size=290,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    tokenizer = Tokenizer.from_folder(tmp_path)
    text = "o 龘é😀o"
    encoding = tokenizer.encode_batch([text])[0]
    surfaces = [text[start:end] for start, end in encoding.offsets if end > start]
    assert [surface for surface in surfaces if surface.strip() and surface != "o"] == ["龘"] * 3 + ["é"] * 2 + [
        "😀"
    ] * 4
    assert tokenizer.kind == "t5"
    assert tokenizer.decode(encoding.ids) == text


def test_rematch_survives_tokens_of_another_text(load) -> None:
    tokenizer = load("RoBERTa-base-ch")
    assert tokenizer.rematch("今天", ["[CLS]", "今", "明", "天", "[SEP]"]) == [[], [0], [], [1], []]


def test_rematch_where_flagai_raised(load) -> None:
    tokenizer = load("RoBERTa-base-ch")
    assert tokenizer.rematch("é天", tokenizer.tokenize("é天")) == [[0], [1]]
