"""A name is enough: every catalogued model is found, fetched once, verified and loaded, from a real local server."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from flagai import settings
from flagai.auto_model.auto_loader import AutoLoader
from flagai.auto_model.lookup import class_name_for, fine_tuned_name
from flagai.auto_model.registry import class_named
from flagai.catalog import catalog
from flagai.catalog.card import Card
from flagai.catalog.packages import find_model
from flagai.cli import app
from flagai.errors import HubError, ModelNotFoundError, OfflineError
from flagai.model.bert_model import BertModel
from flagai.model.glm_model import GLMModel
from tests import chatglm_vocabularies, vocabularies
from tests.hub.server import Hub
from tests.tiny import randomised

# The published configuration with these sizes in it: the same format, a few kilobytes.
TINY: dict[str, dict[str, Any]] = {
    "glm": {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 64, "max_sequence_length": 16},
    "bert": {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 64,
        "max_position_embeddings": 16,
    },
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 64, "n_positions": 16, "n_ctx": 16},
    "t5": {"num_layers": 2, "num_decoder_layers": 2, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2}
    | {"vocab_size": 64, "decoder_start_token_id": 0},
    "chatglm": {
        "num_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "inner_hidden_size": 24,
        "vocab_size": 64,
    },
}
# ChatGLM2 to GLM-4: the original format, and transformers'.
CHATGLM2: dict[bool, dict[str, Any]] = {
    True: {
        "num_layers": 2,
        "kv_channels": 8,
        "multi_query_group_num": 2,
        "ffn_hidden_size": 24,
        "padded_vocab_size": 64,
    },
    False: {"num_hidden_layers": 2, "head_dim": 8, "num_key_value_heads": 2, "intermediate_size": 24, "vocab_size": 64},
}
SHARED = {"hidden_size": 32, "num_attention_heads": 4}
CARDS = [card for card in catalog.list_models() if card.sources and not card.install]


# Rows of an embedding that a real vocabulary with GLM's command tokens fits.
ROWS = {
    ("sentencepiece", "zh"): 50048,
    ("wordpiece", "zh"): 21184,
    ("wordpiece", "en"): 30592,
    ("bpe", "en"): 50304,
    ("t5", "en"): 32128,
}


def is_chatglm(card: Card) -> bool:
    """Whether it is ChatGLM-6B or a later one, whose vocabularies are made in the tests."""
    return card.family in ("chatglm", "chatglm2")


def shrunk(card: Card, *, all_words: bool = False) -> Card:
    """The card of a tiny model of the same format; the published checksums are not its own."""
    original = "padded_vocab_size" in card.config
    sizes = CHATGLM2[original] | SHARED if card.family == "chatglm2" else TINY[card.family]
    # The published int8 and int4 files are in tests/chatglm.
    config = {name: value for name, value in card.config.items() if name != "quantization_bit"} | sizes
    if all_words:
        rows = 512 if is_chatglm(card) else ROWS[card.tokenizer.kind, card.language]
        config["padded_vocab_size" if original else "vocab_size"] = rows
    return dataclasses.replace(card, config=config, files=())


def served(card: Card, folder: Path) -> tuple[Any, dict[str, bytes]]:
    """A random model and its files as its first source has them."""
    cls = class_named(card.model_class)
    model = randomised(cls.on_meta(cls.config_class.from_dict(card.config)).to_empty(device="cpu"))
    model.init_weights()
    folder.mkdir()
    model.save_config(folder)
    authors = card.sources[0].startswith("baai:") or card.config.get("model_type") == "chatglm"
    layout = "flagai" if authors else "huggingface"
    model.save_weights(folder / "pytorch_model.bin", layout=layout)
    for name in card.tokenizer.files:
        (folder / name).write_bytes(b"[PAD]\n" * 9)
    return model, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def tiny_catalog(monkeypatch: pytest.MonkeyPatch) -> Callable[[Card], None]:
    def use(card: Card) -> None:
        monkeypatch.setattr(catalog, "find", lambda *_, **__: card)

    return use


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_name_loads(card: Card, hub: Hub, tmp_path: Path, tiny_catalog: Callable[[Card], None]) -> None:
    card = shrunk(card)
    tiny_catalog(card)
    model, files = served(card, tmp_path / "made")
    hub.models = {card.sources[0].partition(":")[2].partition("@")[0]: files}
    cls = type(model)
    loaded = cls.from_pretrain(download_path=tmp_path / "models", model_name=card.name)
    for name, parameter in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], parameter), name
    asked = len(hub.requests())
    cls.from_pretrain(download_path=tmp_path / "models", model_name=card.name)
    assert len(hub.requests()) == asked  # all is here: nobody is asked again


VOCABULARIES = {
    ("sentencepiece", "zh"): ("glm-cog-pretrain.model.gz",),
    ("wordpiece", "zh"): ("bert-base-chinese-vocab.txt",),
    ("wordpiece", "en"): ("bert-base-uncased-vocab.txt",),
    ("bpe", "en"): ("gpt2-vocab.json.gz", "gpt2-merges.txt.gz"),
    ("t5", "en"): ("t5_spiece.model.gz",),
}


def vocabulary(card: Card) -> dict[str, bytes]:
    """The tokenizer files of a card, with a real vocabulary of their kind in them."""
    if is_chatglm(card):
        return chatglm_vocabularies.files(card.tokenizer.command_table)
    sources = VOCABULARIES[card.tokenizer.kind, card.language]
    files = {name: vocabularies.read(source) for name, source in zip(card.tokenizer.files, sources, strict=False)}
    if card.name == "GLM-RoBERTa":  # GPT-2's vocabulary with RoBERTa's own tokens in front
        own = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokens = {token: number + len(own) for token, number in json.loads(files["vocab.json"]).items()}
        files["vocab.json"] = json.dumps(dict(zip(own, range(5), strict=True)) | tokens).encode()
    return files


# Of models that differ in their name and size only, the first; the others are slow.
FIRST = {(card.task, card.family, card.language, card.base is None): card for card in reversed(CARDS)}.values()


@pytest.mark.parametrize(
    "card",
    [pytest.param(card, id=card.name, marks=() if card in FIRST else pytest.mark.slow) for card in CARDS],
)
def test_every_name_loads_for_its_task(card: Card, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = catalog.find
    monkeypatch.setattr(catalog, "find", lambda name, **_: shrunk(real(name), all_words=True))
    model, files = served(shrunk(card, all_words=True), tmp_path / "made")
    owner = card if card.base is None else real(card.base)
    places = {known.name: known.sources[0].partition(":")[2].partition("@")[0] for known in (owner, card)}
    hub.models = {places[owner.name]: vocabulary(owner)}
    hub.models[places[card.name]] = hub.models.get(places[card.name], {}) | files | vocabulary(owner)
    loader = AutoLoader(card.task, model_name=card.name, model_dir=tmp_path / "models", device="cpu")
    assert isinstance(loader.get_model(), class_named(class_name_for(card.task, card.family)))
    shared = dict(loader.get_model().named_parameters())
    for name, parameter in model.named_parameters():
        assert name not in shared or torch.equal(shared[name], parameter), name
    assert loader.get_tokenizer().encode("hello")


def test_the_configuration_alone_leaves_the_weights(
    hub: Hub, tmp_path: Path, tiny_catalog: Callable[[Card], None]
) -> None:
    card = shrunk(catalog.find("GLM-large-ch"))
    tiny_catalog(card)
    _, hub.models["GLM-large-ch"] = served(card, tmp_path / "made")
    GLMModel.from_pretrain(tmp_path / "models", "GLM-large-ch", only_download_config=True)
    assert not (tmp_path / "models" / "GLM-large-ch" / "pytorch_model.bin").exists()
    assert (tmp_path / "models" / "GLM-large-ch" / "config.json").is_file()


def test_a_bare_name_is_fetched_into_the_home_of_models(
    hub: Hub, tmp_path: Path, tiny_catalog: Callable[[Card], None]
) -> None:
    card = shrunk(catalog.find("GLM-large-ch"))
    tiny_catalog(card)
    _, hub.models["GLM-large-ch"] = served(card, tmp_path / "made")
    GLMModel.from_pretrained("glm-large-ch")
    assert (settings.home() / "GLM-large-ch" / "pytorch_model.bin").is_file()


@pytest.mark.parametrize("command", ["embed", "match"])
def test_the_command_line_fetches_a_known_name_too(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    _, files = served(shrunk(catalog.find("all-MiniLM-L6-v2")), tmp_path / "made")
    vocabulary = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n"
    hub.models["me/mine"] = files | {"vocab.txt": vocabulary}
    (tmp_path / "cards").mkdir()
    card = '["Mine"]\nlike = "all-MiniLM-L6-v2"\nsources = ["hf:me/mine"]\n'
    (tmp_path / "cards" / "mine.toml").write_text(card)
    monkeypatch.setenv("FLAGAI_CARDS", str(tmp_path / "cards"))
    result = CliRunner().invoke(app, [command, "hello", "world", "--model", "mine"])
    assert result.exit_code == 0, result.exception
    assert (settings.home() / "Mine" / "vocab.txt").read_bytes() == vocabulary
    assert find_model("mine") == settings.home() / "Mine"


def test_weights_put_there_by_hand_take_the_catalog_s_configuration(
    tmp_path: Path, tiny_catalog: Callable[[Card], None]
) -> None:
    card = shrunk(catalog.find("GLM-Large"))
    tiny_catalog(card)
    model, files = served(dataclasses.replace(card, sources=("baai:x",)), tmp_path / "made")
    folder = tmp_path / "models" / "GLM-Large"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(files["pytorch_model.bin"])
    loaded = GLMModel.from_pretrain(tmp_path / "models", "GLM-Large")
    assert torch.equal(loaded.embed.token.weight, model.embed.token.weight)


def test_unknown_names_offer_near_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"Did you mean .*GLM-large-ch"):
        GLMModel.from_pretrain(tmp_path, "GLM-large-cn")


def test_offline_says_what_is_missing_and_opens_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket", None)
    with pytest.raises(OfflineError, match="by hand"):
        BertModel.from_pretrain(tmp_path, "RoBERTa-base-ch")


def test_dead_hubs_are_all_named(hub: Hub, tmp_path: Path) -> None:
    hub.models = {}
    with pytest.raises(HubError) as caught:
        GLMModel.from_pretrain(tmp_path, "GLM-large-ch")
    for source in catalog.find("GLM-large-ch").sources:
        assert source.partition("@")[0] in str(caught.value)


def test_fine_tuned_variants_are_looked_for_here_first(tmp_path: Path) -> None:
    assert (
        fine_tuned_name(tmp_path, "GLM-large-ch", "title-generation") == "GLM-large-ch-title-generation"
    )  # the catalog's
    assert fine_tuned_name(tmp_path, "glm-large-ch", "title_generation") == "GLM-large-ch-title-generation"
    assert fine_tuned_name(tmp_path, "GLM-large-ch", "embedding") == "GLM-large-ch"  # there is none
    assert fine_tuned_name(tmp_path, "my-model", "ner") == "my-model"  # and nobody knows this one
    (tmp_path / "my-model-ner").mkdir()
    assert fine_tuned_name(tmp_path, "my-model", "ner") == "my-model-ner"
