"""ChatGLM's and GLM-4's published vocabularies beside what their own code computes: ``pytest --chatglm FOLDER``.

The folder has them under their repositories' names (``chatglm-6b/ice_text.model``), or as ``ice_text.model``,
``chatglm2-3.tokenizer.model`` and ``glm4.tokenizer.model``. Their licence does not let them into this repository.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from flagai.chat import chat_format
from flagai.data.tokenizer import Tokenizer

ORACLES = Path(__file__).parent / "chatglm_tokenizers"
FILES = {
    "chatglm6b": "ice_text.model",
    "chatglm2": "chatglm2-3.tokenizer.model",
    "chatglm3": "chatglm2-3.tokenizer.model",
    "glm4": "glm4.tokenizer.model",
}


@pytest.fixture(scope="module", params=FILES)
def case(request, tmp_path_factory):
    """A tokenizer, and what the original computes with it."""
    home = request.config.getoption("--chatglm")
    if home is None:
        pytest.skip("no --chatglm FOLDER")
    name = FILES[request.param]
    content = (home / name).read_bytes()
    found = json.loads((ORACLES / f"{request.param}.json").read_text())
    assert hashlib.sha256(content).hexdigest() == found["sha256"]
    folder = tmp_path_factory.mktemp(request.param) / request.param
    folder.mkdir()
    shutil.copy(home / name, folder / ("ice_text.model" if name == "ice_text.model" else "tokenizer.model"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer"}))
    return Tokenizer.from_folder(folder), found


def test_ids_and_texts(case):
    tokenizer, found = case
    spaced = "<|user|> \n hi <|assistant|>"  # transformers' slow decoder puts spaces around special tokens
    for row in found["texts"]:
        raw = tokenizer.encode(row["text"])
        assert raw == row["raw"]
        assert tokenizer.frames[0].ids([raw]) == row["ids"]
        assert tokenizer.decode(raw) == row["decoded"].replace(spaced, spaced.replace("> \n", ">\n").replace(" <", "<"))
        assert tokenizer.decode(row["ids"], skip_special_tokens=True) == row["decoded_skip"].removeprefix(
            "[gMASK]sop"
        ).lstrip(" ")
    pair = found["pair"]
    if isinstance(pair, list):
        rows = [tokenizer.encode("问题"), tokenizer.encode("答案")]
        assert tokenizer.frames[1].ids(rows) == pair
    for name, number in found["special"].items():
        if name not in ("<bos>", "<eos>"):  # names in the original's code, and no tokens
            assert tokenizer.convert_tokens_to_ids([name]) == [number]


def conversation(row):
    """A case as messages."""
    if "conversation" in row:
        return row["conversation"], row["ids"][0]
    if "role" in row:
        return [*row["history"], {"role": row["role"], "content": row["query"]}], row["ids"]
    turns = [
        {"role": role, "content": text}
        for turn in row["history"]
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return [*turns, {"role": "user", "content": row["query"]}], row["ids"]


def test_conversations_and_answers(case):
    tokenizer, found = case
    chat = chat_format(tokenizer)
    for row in found["chat"]:
        messages, ids = conversation(row)
        assert chat.encode(messages) == ids
    for text, answer in found.get("process_response", []):
        assert chat.parse(tokenizer.encode(text)).content == answer
