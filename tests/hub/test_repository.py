"""The name of a repository in place of a model's: in every class, loader, tokenizer and command, with a revision."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import flagai
from flagai import settings
from flagai.auto_model.auto_loader import AutoLoader
from flagai.cli import app
from flagai.data.tokenizer import Tokenizer
from flagai.errors import HubError, InputError, ModelNotFoundError
from flagai.hub.manifest import Manifest
from flagai.hub.names import MANIFEST
from flagai.hub.repository import fetch_repository, repository
from flagai.model.bert_model import BertModel
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.serve.served import ServedModel
from tests.hub.server import COMMIT, Fault, Hub
from tests.tiny import randomised

SIZES = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 7,
    "max_position_embeddings": 16,
}
VOCABULARY = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n"
POOLING = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
NAMES = ["owner/bge", "owner/bge@main", f"hf:owner/bge@{COMMIT}", "hf:owner/bge", "modelscope:owner/bge"]


@pytest.fixture
def files(hub: Hub, tmp_path: Path) -> dict[str, bytes]:
    """What the hub has under owner/bge: a tiny BERT whose author meant the first token's vector, and code."""
    made = tmp_path / "made"
    made.mkdir()
    model = randomised(BertModel.on_meta(BertModel.config_class.from_dict(SIZES)).to_empty(device="cpu"))
    model.init_weights()
    model.save_config(made)
    model.save_weights(made / "model.safetensors", layout="huggingface")
    found = {path.name: path.read_bytes() for path in made.iterdir()}
    found |= {"vocab.txt": VOCABULARY, "modeling_bge.py": b"raise SystemExit('run')", "README.md": b"#"}
    found |= {"modules.json": json.dumps(MODULES).encode(), "1_Pooling/config.json": json.dumps(POOLING).encode()}
    hub.models = {"owner/bge": found}
    return found


def folder_of(name: str) -> Path:
    return settings.home() / name.rpartition(":")[2]


@pytest.mark.parametrize("name", NAMES)
def test_every_way_in_takes_the_name(hub: Hub, files: dict[str, bytes], name: str) -> None:
    model = BertModel.from_pretrained(name)
    asked = len(hub.requests())
    embedder = SentenceEmbedder.from_pretrained(name)
    loader = AutoLoader("embedding", name, device="cpu")
    tokenizer = Tokenizer.from_pretrained(name)
    vectors = flagai.load("embedding", name, device="cpu")(["hello"])
    assert len(hub.requests()) == asked  # all is here: nobody is asked again
    assert tokenizer.encode("hello world") == [5, 6]
    assert torch.equal(loader.get_model().backbone.embed.token.weight, model.embed.token.weight)
    assert torch.equal(vectors, embedder.embed(["hello"]))
    kept = {path.relative_to(folder_of(name)).as_posix() for path in folder_of(name).rglob("*") if path.is_file()}
    assert kept - {MANIFEST} == set(files) - {"modeling_bge.py", "README.md"}  # never code


def test_an_embedding_from_a_hub_is_what_its_author_meant(files: dict[str, bytes], tmp_path: Path) -> None:
    embedder = SentenceEmbedder.from_pretrained("owner/bge", tmp_path / "models")
    assert embedder.settings.pooling.modes == ("cls",)
    assert (tmp_path / "models/owner/bge/1_Pooling/config.json").is_file()


def test_a_tokenizer_or_configuration_leaves_the_weights(files: dict[str, bytes], tmp_path: Path) -> None:
    Tokenizer.from_pretrained("owner/bge", tmp_path)
    assert not (tmp_path / "owner/bge/model.safetensors").exists()
    BertModel.from_pretrain(tmp_path, "owner/bge", only_download_config=True)
    assert not (tmp_path / "owner/bge/model.safetensors").exists()
    BertModel.from_pretrain(tmp_path, "owner/bge")  # what is missing follows
    assert (tmp_path / "owner/bge/model.safetensors").is_file()


def test_a_family_that_cannot_do_a_task_costs_no_weights(hub: Hub, files: dict[str, bytes]) -> None:
    changed = json.loads(files["config.json"]) | {"model_type": "gpt2"}
    files["config.json"] = json.dumps(changed).encode()
    with pytest.raises(InputError, match="cannot do 'ner'"):
        AutoLoader("ner", "owner/bge")
    assert not hub.bytes_sent("model.safetensors")


def test_revisions_have_folders_of_their_own(files: dict[str, bytes], tmp_path: Path) -> None:
    BertModel.from_pretrain(tmp_path, "owner/bge", revision=COMMIT)
    found = Manifest.read(tmp_path / f"owner/bge@{COMMIT}" / MANIFEST)
    assert found is not None
    assert (found.source, found.revision) == (f"hf:owner/bge@{COMMIT}", COMMIT)
    assert not (tmp_path / "owner/bge").exists()
    assert AutoLoader("embedding", "owner/bge", tmp_path, device="cpu", revision=COMMIT).get_tokenizer().kind
    Tokenizer.from_pretrained("modelscope:owner/bge", tmp_path, revision="v2/x")
    assert (tmp_path / "owner/bge@v2--x/vocab.txt").is_file()


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("bert-base-chinese", "main", "needs the name of a repository"),
        ("owner/bge@main", "v2", "another one"),
        (Path("owner/bge"), "main", "needs the name"),
    ],
)
def test_a_revision_that_means_nothing_is_an_error(hub: Hub, name: str | Path, revision: str, words: str) -> None:
    for load in (BertModel.from_pretrained, Tokenizer.from_pretrained, SentenceEmbedder.from_pretrained):
        with pytest.raises(InputError, match=words):
            load(name, revision=revision)
    with pytest.raises(InputError, match=words):
        flagai.load("embedding", name, revision=revision)
    assert not hub.requests()


@pytest.mark.parametrize("name", ["hf:../up", "hf:owner", "hf:owner/..", "hf:owner/bge@../../../x", "modelscope:a/b/c"])
def test_names_that_leave_their_place_are_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    with pytest.raises(HubError):
        BertModel.from_pretrain(tmp_path / "models", name)
    assert not (tmp_path / "up").exists()
    assert not (tmp_path / "x").exists()


def test_paths_and_catalogued_names_are_no_repositories(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in (
        "google-bert/bert-base-chinese",
        "models/mistyped",
        "./a/b",
        "/a/b",
        "a/b/c",
        Path("owner/bge"),
        "GLM",
    ):
        assert repository(name) is None, name
    assert repository("owner/bge@v1.0") == repository("hf:owner/bge@v1.0")
    with pytest.raises(ModelNotFoundError, match="There is no folder"):
        BertModel.from_pretrained("models/mistyped")
    assert not hub.requests()


def test_an_interrupted_download_is_resumed_by_name(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.faults["model.safetensors"] = Fault(status=403, times=1)
    with pytest.raises(HubError, match=r"for a repository[\s\S]*HF_ENDPOINT=https://[\s\S]*modelscope:owner/bge"):
        BertModel.from_pretrain(tmp_path, "owner/bge")
    assert not (tmp_path / "owner/bge/config.json").exists()
    assert BertModel.from_pretrain(tmp_path, "owner/bge").max_positions == 16


def test_two_hubs_do_not_share_a_folder(files: dict[str, bytes], tmp_path: Path) -> None:
    fetch_repository("modelscope:owner/bge", tmp_path, ("config",))
    assert fetch_repository("owner/bge", tmp_path, ("config",)) is None  # the folder of this name is taken
    with pytest.raises(HubError, match="holds owner/bge from modelscope:owner/bge"):
        BertModel.from_pretrain(tmp_path, "hf:owner/bge")


def test_the_token_of_modelscope_stays_with_it(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-secret")
    fetch_repository("modelscope:owner/bge", tmp_path, ("config",))
    assert {entry.headers.get("Cookie") for entry in hub.requests()} == {"m_session_id=ms-secret"}
    elsewhere = hub.url.replace("127.0.0.1", "localhost") + "/cdn/owner/bge/model.safetensors"
    hub.faults["model.safetensors"] = Fault(redirect=elsewhere, times=1)
    fetch_repository("modelscope:owner/bge", tmp_path, ("weights",))
    assert {entry.headers.get("Cookie") for entry in hub.requests("/cdn/")} == {None}
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "a;b=c")
    with pytest.raises(HubError, match="MODELSCOPE_API_TOKEN"):
        fetch_repository("modelscope:owner/bge", tmp_path / "other", ("config",))


def test_private_models_of_modelscope_name_the_variable(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="set MODELSCOPE_API_TOKEN"):
        BertModel.from_pretrain(tmp_path, "modelscope:owner/none")


@pytest.mark.parametrize("name", ["owner/bge:embedding", "hf:owner/bge:embedding"])
def test_a_server_takes_the_name(files: dict[str, bytes], name: str, tmp_path: Path) -> None:
    assert "embedding" in ServedModel(name, tmp_path, device="cpu").pipelines
    with pytest.raises(InputError, match="cannot do masklm"):  # the weights tell that it has no head
        ServedModel(name.rpartition(":")[0], tmp_path / "other", device="cpu")


@pytest.mark.parametrize("name", ["owner/bge", "modelscope:owner/bge"])
def test_commands_take_the_name(files: dict[str, bytes], name: str) -> None:
    result = CliRunner().invoke(app, ["embed", "hello", "world", "--model", name])
    assert result.exit_code == 0, result.exception
    result = CliRunner().invoke(app, ["download", name])
    assert result.output.strip() == str(settings.home() / "owner/bge")
    assert "owner/bge  (" in CliRunner().invoke(app, ["cache", "list"]).output
    assert CliRunner().invoke(app, ["verify", "owner/bge"]).exit_code == 0
    assert CliRunner().invoke(app, ["doctor", name]).exit_code == 0
    target = str(settings.home() / "converted")
    assert CliRunner().invoke(app, ["convert", name, target]).exit_code == 0
