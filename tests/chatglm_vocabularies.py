"""Small vocabularies of the kinds of ChatGLM and GLM-4, made here: the published ones may not be passed on."""

import base64
import functools
import io
import json
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken

from flagai.data.tokenizer.ranks import load_ranks

GENERATIONS = ("chatglm", "chatglm2", "chatglm3", "glm4")
_TEXTS = [
    *["今天天气很好，我们去公园玩吧。", "你好！我是人工智能助手。", "清华大学在北京。", "问：答：[Round 1]"] * 30,
    *["The sky is blue, and the grass is green.", "Hello world! How are you?", "def weather(city):\n    return 1"] * 30,
    *["tool_call(city='Paris', days=3)", '{"name": "weather", "city": "Paris"}', "<|user|> <|assistant|>"] * 20,
]
_SPACES = ["<n>", "<|tab|>", *(f"<|blank_{count}|>" for count in range(2, 81))]
# GLM-4's special tokens, in the order of their ids.
SPECIAL = [
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
]
_CONTROLS = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]


@functools.cache
def ice() -> bytes:
    """A model with icetk's pieces for spaces, like ``ice_text.model``."""
    return _sentencepiece(
        model_type="unigram",
        vocab_size=500,
        pad_id=3,
        user_defined_symbols=_SPACES,
        control_symbols=_CONTROLS,
    )


@functools.cache
def bpe() -> bytes:
    """A model of bytes and merges without normalization, like ChatGLM2's ``tokenizer.model``."""
    return _sentencepiece(
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
    )


def _sentencepiece(**settings: object) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXTS),
        model_writer=written,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        **settings,
    )
    return written.getvalue()


@functools.cache
def ranks() -> bytes:
    """Ranks of bytes and merges, like GLM-4's ``tokenizer.model``."""
    words = Counter(word for text in _TEXTS for word in text.replace(" ", "\0 ").split("\0"))
    rows = {word: [bytes([byte]) for byte in word.encode()] for word in words}
    known = [bytes([byte]) for byte in range(256)]
    for _ in range(200):
        pairs = Counter(pair for word, row in rows.items() for pair in pairwise(row) for _ in range(words[word]))
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        known.append(left + right)
        rows = {word: _merged(row, left, right) for word, row in rows.items()}
    unique = dict.fromkeys(known)
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(unique))


def _merged(row: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    found: list[bytes] = []
    for token in row:
        if token == right and found and found[-1] == left:
            found[-1] = left + right
        else:
            found.append(token)
    return found


@functools.cache
def fast() -> bytes:
    """A ``tokenizer.json`` with these ranks and GLM-4's special tokens, like GLM-4-0414's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        path.write_bytes(ranks())
        rust = load_ranks(path)
    rust.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return rust.to_str().encode()


def files(table: str | None) -> dict[str, bytes]:
    """The tokenizer's files of a table of special tokens, as its authors publish them; None: as transformers does."""
    if table is None:
        return {"tokenizer.json": fast()}
    name, make = {"chatglm": ("ice_text.model", ice), "glm4": ("tokenizer.model", ranks)}.get(
        table, ("tokenizer.model", bpe)
    )
    return {name: make()}


def put(home: Path, generation: str, **options: object) -> Path:
    """Write a tokenizer's folder as its authors publish it, and return it."""
    folder = home / f"{generation}-6b"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(generation).items():
        (folder / name).write_bytes(content)
    kind = "ChatGLM4Tokenizer" if generation == "glm4" else "ChatGLMTokenizer"
    stated = {
        "tokenizer_class": kind,
        "name_or_path": f"THUDM/{generation}-6b",
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.X", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(stated | options))
    return folder
