"""Folders of models as FlagAI lays them out: config.json, pytorch_model.bin and the real vocabulary, tiny weights."""

from pathlib import Path
from typing import Any

from flagai.data.tokenizer import Tokenizer
from tests import tiny, vocabularies

# What a tiny model needs to go with the real vocabulary of a name.
SIZES: dict[str, dict[str, Any]] = {
    "GLM-large-ch": {"vocab_size": 50048, "max_sequence_length": 256, "spell_length": None},
    "GLM-large-en": {"vocab_size": 30592, "max_sequence_length": 256, "spell_length": None},
    "RoBERTa-base-ch": {"vocab_size": 21128, "max_position_embeddings": 128},
    "BERT-base-en": {"vocab_size": 30522, "max_position_embeddings": 128},
    "GPT2-base-ch": {"vocab_size": 21128, "n_positions": 256},
    "GPT2-base-en": {"vocab_size": 50257, "n_positions": 256, "pad_token_id": None, "bos_token_id": 50256},
    "T5-base-ch": {"vocab_size": 50000, "decoder_start_token_id": None},
    "T5-base-en": {"vocab_size": 32128},
}


def model(name: str, class_name: str, **changes: Any) -> Any:
    """A tiny random model of a class with the vocabulary of a name."""
    return tiny.build(class_name, **SIZES[name] | changes)


def write(home: Path, name: str, class_name: str, folder: str | None = None, **changes: Any) -> Path:
    """Write a tiny model and its vocabulary into a model directory.

    Args:
        home: the model directory.
        name: whose vocabulary it has.
        class_name: its class.
        folder: the name of its folder, without a vocabulary if that is not ``name``.
        **changes: settings of the configuration.
    """
    target = home / (folder or name)
    target.mkdir(parents=True, exist_ok=True)
    made = model(name, class_name, **changes)
    made.save_weights(target / "pytorch_model.bin")
    made.save_config(target)
    if folder is None:
        vocabularies.put(home, name)
    return target


def tokenizer(home: Path, name: str) -> Tokenizer:
    """The tokenizer of a name, whose files are written first."""
    return Tokenizer.from_folder(vocabularies.put(home, name) / name)
