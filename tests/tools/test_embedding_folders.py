"""Embeddings that would be wrong are refused: other languages, unknown poolings and modules."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from flagai import cli
from flagai.auto_model.auto_loader import AutoLoader
from flagai.catalog.packages import find_model
from flagai.cli.languages import script_of
from flagai.data.ragged import Ragged
from flagai.errors import ConfigError, InputError
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.model.predictor.predictor import Predictor
from flagai.model.predictor.unknown import UnknownTokens
from tests import folders

MINILM = find_model("all-MiniLM-L6-v2")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sentence-transformers folder whose small files may be changed."""
    target = tmp_path / "sentences"
    shutil.copytree(MINILM, target, ignore=shutil.ignore_patterns("*.safetensors"))
    for weights in MINILM.glob("*.safetensors"):
        (target / weights.name).symlink_to(weights)
    return target


# -- languages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("A man", "Latin"),
        ("Café naïve 中", "Latin"),
        ("ＡＢＣ", None),
        ("一个女孩 abc", "Han"),
        ("これは日本語です", "Hiragana"),
        ("漢字漢字カ", "Katakana"),
        ("Мама", "Cyrillic"),
        ("안녕", "Hangul"),
        ("123 😀 !", None),
        ("", None),
    ],
)
def test_scripts(text: str, script: str | None) -> None:
    assert script_of(text) == script


def test_chinese_goes_to_the_model_that_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGAI_HOME", str(tmp_path))
    result = run("match", "一个女孩", "女孩在梳头")
    assert isinstance(result.exception, InputError)
    assert "me5-small-bert-zh is not on this machine" in str(result.exception)
    made = folders.write(tmp_path, "RoBERTa-base-ch", "BertModel", class_num=None)
    made.rename(tmp_path / "me5-small-bert-zh")
    chinese, named = run("match", "一个女孩", "女孩在梳头"), run("match", "一个女孩", "女孩", "-m", "me5-small-bert-zh")
    assert chinese.exit_code == named.exit_code == 0
    assert float(run("match", "A man", "A man").output) == 1
    assert json.loads(run("embed", "一个女孩").output)["embedding"] != [0]


@pytest.mark.parametrize("texts", [["一个女孩", "A girl"], ["Мама мыла раму", "мама"], ["これは", "本です"]])
def test_other_and_mixed_scripts_are_refused(texts: list[str]) -> None:
    for command in ("match", "embed"):
        result = run(command, *texts)
        assert isinstance(result.exception, InputError), result.output
        assert "No default model knows the scripts" in str(result.exception)


def test_a_named_model_must_know_the_words(caplog: pytest.LogCaptureFixture) -> None:
    result = run("match", "一个女孩正在梳头", "女孩在梳头", "--model", "all-MiniLM-L6-v2")
    assert "tokens that the model's vocabulary does not know" in str(result.exception)
    embedder = SentenceEmbedder.from_folder(MINILM)
    embedder.embed(["A man", "😀", "Café — 北京 is the capital of 中国"])
    assert not caplog.records or "vocabulary" not in caplog.text
    embedder.embed(["A man", "一个女孩正在梳头"])
    assert "1 of 2 texts have more than 25% tokens" in caplog.text


def test_unknown_tokens_are_counted_per_row() -> None:
    rows = Ragged.of([[2, 9, 9, 9, 9, 3], [2, 9, 1, 1, 9, 3], [2, 1, 1, 3], [2, 3], [2, 1, 9, 9, 9, 3]])
    with pytest.raises(InputError, match=r"1 of 5 texts .* 'b'"):
        UnknownTokens(1, 2, strict=True).look(list("ab🙂de"), rows)
    assert UnknownTokens(None, 2, strict=True).look(list("abcde"), rows) is rows


# -- folders ------------------------------------------------------------------------------------------------------

POOLING = "1_Pooling/config.json"
REFUSED: dict[str, tuple[str, Any]] = {
    "none": (POOLING, {"pooling_mode_mean_tokens": False}),
    "odd": (POOLING, {"pooling_mode_mean_tokens": "yes"}),
    "a list": (POOLING, [1]),
    "dense": ("modules.json", [{"path": "", "type": "x.Transformer"}, {"path": "2_Dense", "type": "x.models.Dense"}]),
    "no list": ("modules.json", {"a": 1}),
    "odd module": ("modules.json", [5]),
    "odd type": ("modules.json", [{"type": 5}]),
    "odd prompts": ("config_sentence_transformers.json", {"prompts": 5, "default_prompt_name": "q"}),
    "similarity": ("config_sentence_transformers.json", {"similarity_fn_name": "manhattan"}),
    "length": ("sentence_bert_config.json", {"max_seq_length": 0}),
    "odd length": ("sentence_bert_config.json", {"max_seq_length": "many"}),
    "no room": ("sentence_bert_config.json", {"max_seq_length": 1}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_folder_asks_for_is_done_or_refused(folder: Path, case: str) -> None:
    name, content = REFUSED[case]
    (folder / name).write_text(json.dumps(content))
    embedder = SentenceEmbedder.from_folder(folder)
    for call in (embedder.embed, Predictor(embedder.model, embedder.tokenizer).predict_embedding):
        if case == "no room" and call != embedder.embed:
            continue
        with pytest.raises((ConfigError, InputError)):
            call(["a"])
    assert isinstance(run("embed", "a", "--model", str(folder)).exception, ConfigError | InputError)


@pytest.mark.parametrize("damage", ["{", "\ud800", "[" * 10_000])
def test_damaged_files_are_named(folder: Path, damage: str) -> None:
    (folder / "modules.json").write_bytes(damage.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match="modules"):
        SentenceEmbedder.from_folder(folder).embed(["a"])


def test_the_length_of_the_folder_holds_unless_another_is_given(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    embedder, text = SentenceEmbedder.from_folder(folder), "one two three four five six seven"
    torch.testing.assert_close(embedder.embed([text]), embedder.embed(["one two three four"]))
    longer = SentenceEmbedder.from_folder(folder, max_length=20).embed([text])
    assert not torch.allclose(longer, embedder.embed([text]))
    loader = AutoLoader("embedding", str(folder))
    predictor = Predictor(loader.get_model(), loader.get_tokenizer())
    torch.testing.assert_close(predictor.predict_embedding([text], maxlen=None), embedder.embed([text]))


def test_parts_in_each_others_place_are_named() -> None:
    loader = AutoLoader("embedding", str(MINILM))
    model, tokenizer = loader.get_model(), loader.get_tokenizer()
    for cls in (Predictor, SentenceEmbedder):
        for first, second, message in (
            (tokenizer, model, "in each other's place"),
            (model, None, "The tokenizer is missing"),
            (None, tokenizer, "The model is of type NoneType"),
            (model, model, "The tokenizer is of type Bert"),
            ("name", tokenizer, "The model is of type str"),
        ):
            with pytest.raises(InputError, match=message):
                cls(first, second)
        assert repr(cls(model, tokenizer)).startswith(f"{cls.__name__}(BertForEmbedding, Tokenizer('")
    assert repr(loader).startswith("AutoLoader('embedding': BertForEmbedding, Tokenizer(")


@pytest.mark.parametrize("texts", [None, 5, b"a", {"a": 1}, {"a"}])
def test_what_is_no_list_of_texts_is_refused(texts: Any) -> None:
    with pytest.raises(InputError, match="Expected a text or a list of texts"):
        SentenceEmbedder.from_folder(MINILM).embed(texts)


def test_short_texts_of_another_language_are_refused_and_emoji_are_not() -> None:
    embedder = SentenceEmbedder.from_folder(MINILM)
    embedder.strict = True
    assert embedder.embed(["\U0001fae8"]).shape == (1, 384)
    with pytest.raises(InputError, match="does not know, such as '你好'"):
        embedder.embed(["你好"])


def test_a_failed_download_is_no_default_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGAI_HOME", str(tmp_path))
    (tmp_path / "me5-small-bert-zh").mkdir()
    result = run("match", "一个女孩", "女孩在梳头")
    assert isinstance(result.exception, InputError)
    assert "me5-small-bert-zh is not on this machine" in str(result.exception)
