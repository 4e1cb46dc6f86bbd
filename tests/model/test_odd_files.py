"""Files of a folder that are none: a pipe would block for ever, a device never ends."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

from tests import tiny

_LOAD = """
import sys
from flagai.errors import FlagAIError
from flagai.model.bert_model import BertModel
from flagai.model.predictor.embedder import SentenceEmbedder
for load in (BertModel.from_pretrained, lambda folder: SentenceEmbedder.from_folder(folder).embed(["a"])):
    for folder in sys.argv[1:]:
        try:
            load(folder)
        except FlagAIError:
            pass
"""
_NAMES = (
    *("config.json", "vocab.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"),
    *("sentence_bert_config.json", "modules.json", "generation_config.json", "model.safetensors", ".flagai.json"),
)


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    for kind, name in itertools.product(("pipe", "device"), _NAMES):
        folder = tmp_path / f"{kind}-{name}"
        tiny.build("BertModel").save_pretrained(folder)
        (folder / "vocab.txt").write_text(
            "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + "\n".join("abcdefghijklmnopqrstuvwxyz")
        )
        (folder / name).unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(folder / name)
        else:
            (folder / name).symlink_to("/dev/zero")
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, *tmp_path.iterdir()], timeout=100, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
