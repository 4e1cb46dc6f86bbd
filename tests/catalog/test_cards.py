"""The shipped cards: are they true as far as this machine can tell?"""

import hashlib
import importlib
import json
from pathlib import Path

import pytest

from flagai.catalog.card import Card
from flagai.catalog.catalog import find, list_models
from flagai.catalog.packages import package_folder

CARDS = list_models()
# The tutorial's two tables: class, model, and the task of the second one.
TUTORIAL = [
    ("GLMModel", "GLM-10b-ch", "zh"),
    ("GLMModel", "GLM-large-ch", "zh"),
    ("BertModel", "RoBERTa-base-ch", "zh"),
    ("GPT2Model", "GPT2-base-ch", "zh"),
    ("T5Model", "T5-base-ch", "zh"),
    ("T5Model", "T5-base-en", "en"),
    ("BertModel", "BERT-base-en", "en"),
    ("GLMModel", "GLM-large-en", "en"),
    ("GLMForSeq2Seq", "GLM-large-ch-title-generation", "zh"),
    ("GLMForSeq2Seq", "GLM-large-ch-poetry", "zh"),
    ("GLMForSeq2Seq", "GLM-large-ch-poetry-generation", "zh"),
    ("BertForSeq2seq", "RoBERTa-base-ch-title-generation", "zh"),
    ("BertForSequenceLabeling", "RoBERTa-base-ch-ner", "zh"),
    ("BertForClsClassifier", "RoBERTa-base-ch-semantic-matching", "zh"),
    ("T5Model", "T5-base-ch-title-generation", "zh"),
    ("BertForSeq2seq", "BERT-base-en-title-generation", "en"),
]
# THUDM/GLM's table: layers, width, heads, positions, vocabulary, parameters.
THUDM = {
    "GLM-Base": (12, 768, 12, 512, 30592, 109_338_624),
    "GLM-Large": (24, 1024, 16, 512, 30592, 334_688_256),
    "GLM-Large-Chinese": (24, 1024, 16, 1024, 50048, 355_659_776),
    "GLM-Doc": (24, 1024, 16, 512, 30592, 334_688_256),
    "GLM-410M": (30, 1024, 16, 512, 30592, 410_265_600),
    "GLM-515M": (30, 1152, 18, 512, 30592, 514_632_960),
    "GLM-RoBERTa": (24, 1024, 16, 512, 50304, 354_873_344),
    "GLM-2B": (36, 2048, 32, 1024, 50304, 1_920_122_880),
    "GLM-10B": (48, 4096, 64, 1024, 50304, 9_880_682_496),
    "GLM-10B-Chinese": (48, 4096, 64, 1024, 50048, 9_879_633_920),
}
REPOSITORIES = [
    "google-bert/bert-base-uncased",
    "google-bert/bert-base-chinese",
    "hfl/chinese-roberta-wwm-ext",
    "google-t5/t5-base",
    "openai-community/gpt2",
    "uer/gpt2-chinese-cluecorpussmall",
    "imxly/t5-pegasus",
    "sentence-transformers/all-MiniLM-L6-v2",
    *(
        f"{owner}/{name}"
        for owner in ("THUDM", "zai-org")
        for name in ("glm-large-chinese", "glm-10b", "glm-10b-chinese", "glm-2b", "glm-515m", "glm-roberta-large")
    ),
]
# Checksums of vocabularies, computed from the files themselves (spec: golden/VOCAB_SHA256.json).
VOCABULARIES = {
    ("bert-base-uncased", "vocab.txt"): "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ("bert-base-chinese", "vocab.txt"): "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c",
    ("gpt2", "vocab.json"): "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ("gpt2", "merges.txt"): "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ("t5-base", "spiece.model"): "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86",
}


def by_name(card: Card) -> str:
    return card.name


@pytest.mark.torch
@pytest.mark.parametrize("card", CARDS, ids=by_name)
def test_the_configuration_builds_and_has_the_stated_parameters(card: Card) -> None:
    from flagai.auto_model.registry import class_named

    model_class = class_named(card.model_class)
    model = model_class.on_meta(model_class.config_class.from_dict(card.config, card.origin))
    assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters


@pytest.mark.torch
@pytest.mark.parametrize("card", CARDS, ids=by_name)
def test_the_configuration_describes_the_family_and_the_class_is_where_the_card_says(card: Card) -> None:
    from flagai.auto_model.registry import class_named
    from flagai.families.config_content import family_of

    json.dumps(dict(card.config))  # it becomes a config.json
    assert family_of(card.config) == card.family
    assert getattr(importlib.import_module(card.module), card.model_class) is class_named(card.model_class)


@pytest.mark.parametrize("card", CARDS, ids=by_name)
def test_command_tokens_have_rows(card: Card) -> None:
    assert max(card.tokenizer.tokens.values()) < card.config.get("vocab_size", card.config.get("padded_vocab_size"))


@pytest.mark.parametrize("card", CARDS, ids=by_name)
def test_whatever_nobody_confirmed_is_marked(card: Card) -> None:
    assert set(card.inferred) <= set(Card.__dataclass_fields__)
    if any(source.scheme == "baai" for source in card.places()):
        assert "files" in card.inferred, "nobody has seen what the BAAI hub holds"
        assert not any(file.sha256 for file in card.files if (file.source or "baai:").startswith("baai:"))
    if len({source.scheme for source in card.places()} & {"baai", "hf"}) == 2:
        assert "sources" in card.inferred, "nobody has compared the weights of the two hubs"


@pytest.mark.parametrize(("model_class", "name", "language"), TUTORIAL, ids=lambda value: str(value))
def test_the_tutorials_models_are_there(model_class: str, name: str, language: str) -> None:
    card = find(name)
    assert (card.model_class, card.language) == (model_class, language)
    assert card.sources[0].startswith("baai:")
    assert find(name.lower()) == find(name.upper()) == card


@pytest.mark.parametrize("name", THUDM)
def test_the_original_series_is_there(name: str) -> None:
    card = find(name.upper())
    keys = ("num_layers", "hidden_size", "num_attention_heads", "max_sequence_length", "vocab_size")
    assert (card.name, *(card.config[key] for key in keys), card.parameters) == (name, *THUDM[name])
    assert card.tokenizer.tokens["eop"] > card.tokenizer.tokens["sop"]


@pytest.mark.parametrize("name", REPOSITORIES)
def test_repositories_are_found_by_their_names(name: str) -> None:
    assert any(source.scheme == "hf" and source.location == name for source in find(name.lower()).places())


@pytest.mark.parametrize(
    ("name", "table", "gmask"),
    [
        ("GLM-large-ch", "fixed", 50009),
        ("GLM-Large-Chinese", "fixed", 50009),
        ("GLM-large-ch-title-generation", "fixed", 50009),
        ("GLM-10b-ch", "unfixed", 50007),
        ("GLM-10B-Chinese", "unfixed", 50007),
        ("GLM-10b-en", None, 50263),
        ("GLM-2B", None, 50263),
    ],
)
def test_which_row_gmask_has(name: str, table: str | None, gmask: int) -> None:
    tokenizer = find(name).tokenizer
    assert (tokenizer.command_table, tokenizer.tokens["gMASK"]) == (table, gmask)
    assert (tokenizer.tokens["gMASK"] == tokenizer.tokens["eop"]) == (table == "unfixed")


def test_the_other_command_tokens_of_chinese_glm() -> None:
    expected = {"pad": 50000, "eos": 50000, "sep": 50001, "cls": 50002, "mask": 50003, "unk": 50004}
    expected |= {"sop": 50006, "eop": 50007, "sMASK": 50008}
    for name in ("GLM-large-ch", "GLM-10b-ch"):
        assert find(name).tokenizer.tokens.items() >= expected.items()
        assert find(name).tokenizer.canonical("spiece.model") == "cog-pretrain.model"


@pytest.mark.parametrize(("name", "file"), VOCABULARIES)
def test_checksums_of_vocabularies(name: str, file: str) -> None:
    card = find(name)
    assert card.file(file, card.sources[0]).sha256 == VOCABULARIES[name, file]


def test_a_checksum_holds_for_its_source_only() -> None:
    card = find("BERT-base-en")
    baai, repository = card.sources[0], card.sources[1]
    assert card.file("vocab.txt", repository).sha256 is not None
    assert card.file("vocab.txt", baai).sha256 is None


def test_the_packaged_model_is_what_its_card_says() -> None:
    card = find("all-MiniLM-L6-v2")
    folder = package_folder(card)
    assert folder is not None
    for file in card.files:
        content = Path(folder / file.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
    published = json.loads((folder / "config.json").read_text())
    assert card.config.items() <= published.items()
