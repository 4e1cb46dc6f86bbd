"""Folders with the real vocabularies of every model, under the names that FlagAI uses."""

import gzip
from pathlib import Path

VOCAB = Path(__file__).parent / "vocab"
FILES = {
    "GLM-large-ch": {"cog-pretrain.model": "glm-cog-pretrain.model.gz"},
    "GLM-10b-ch": {"spiece.model": "glm-cog-pretrain.model.gz"},
    "GLM-large-en": {"vocab.txt": "bert-base-uncased-vocab.txt"},
    "GLM-10b-en": {"vocab.json": "gpt2-vocab.json.gz", "merges.txt": "gpt2-merges.txt.gz"},
    "RoBERTa-base-ch": {"vocab.txt": "bert-base-chinese-vocab.txt"},
    "BERT-base-en": {"vocab.txt": "bert-base-uncased-vocab.txt"},
    "GPT2-base-ch": {"vocab.txt": "bert-base-chinese-vocab.txt"},
    "GPT2-base-en": {"vocab.json": "gpt2-vocab.json.gz", "merges.txt": "gpt2-merges.txt.gz"},
    "T5-base-ch": {"vocab.txt": "t5-pegasus-vocab.txt"},
    "T5-base-en": {"spiece.model": "t5_spiece.model.gz"},
}


def read(name: str) -> bytes:
    """A vocabulary file, unpacked."""
    content = (VOCAB / name).read_bytes()
    return gzip.decompress(content) if name.endswith(".gz") else content


def put(home: Path, *names: str) -> Path:
    """Write the tokenizers of models into a model directory, and return that."""
    for name in names or FILES:
        folder = home / name
        folder.mkdir(parents=True, exist_ok=True)
        for target, source in FILES[name].items():
            (folder / target).write_bytes(read(source))
    return home
