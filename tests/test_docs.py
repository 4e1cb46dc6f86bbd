"""Every code block of the README and the docs runs as it is written."""

import gzip
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from torch import distributed
from typer.testing import CliRunner

from flagai.cli import app
from flagai.model.bert_model import BertForClsClassifier, BertForSequenceLabeling, BertModel
from flagai.model.glm_model import GLMModel
from tests import chatglm_vocabularies, folders, tiny, vocabularies

ROOT = Path(__file__).parent.parent
# README_zh.md has the code of README.md: see below; that of serve.md runs against a server: tests/serve/test_docs.py.
OTHERS = ("README_zh.md", "serve.md")
PAGES = [page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")] if page.name not in OTHERS]
GLM = {
    "num_layers": 2,
    "vocab_size": 50048,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "max_sequence_length": 64,
}
BERT = {"vocab_size": 21128, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "model_type": "bert"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The arguments of ``flagai`` in the page's blocks."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    ours = (line.rpartition("&& ")[2] for line in lines)
    found = [line.removeprefix("flagai ") for line in ours if line.startswith("flagai ")]
    return [line for line in found if not line.startswith("serve ")]  # they do not end: tests/serve/test_docs.py


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small random models, and real vocabularies, under the names that the docs use."""
    tmp_path = tmp_path_factory.mktemp("docs")
    for model_class, config, name in ((GLMModel, GLM, "GLM-large-ch"), (BertModel, BERT, "RoBERTa-base-ch")):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        model_class.init_from_json(folder / "config.json").save_pretrained(folder)
    for model_class, task, classes in (
        (BertForSequenceLabeling, "ner", 7),
        (BertForClsClassifier, "semantic-matching", 2),
    ):
        folder = tmp_path / "checkpoints" / f"RoBERTa-base-ch-{task}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(BERT | {"class_num": classes}))
        model_class.init_from_json(folder / "config.json").save_pretrained(folder)
    folders.write(tmp_path / "checkpoints", "GPT2-base-ch", "GPT2Model")
    titles = {"folder": "RoBERTa-base-ch-title-generation"}
    folders.write(tmp_path / "checkpoints", "RoBERTa-base-ch", "BertForSeq2seq", **titles)
    vocabularies.put(tmp_path / "checkpoints", "GLM-large-ch", "RoBERTa-base-ch")
    chatglm = chatglm_vocabularies.put(tmp_path / "checkpoints", "chatglm3").rename(
        tmp_path / "checkpoints" / "ChatGLM3-6B"
    )
    tiny.build("ChatGLM2Model", padded_vocab_size=512).save_pretrained(chatglm)
    return tmp_path / "checkpoints"


@pytest.fixture
def workplace(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with copies of the models and with texts."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models, tmp_path / "checkpoints")
    (tmp_path / "sentences.txt").write_text("A man plays a guitar.\nThe sky is blue.\n")
    pair = {"text1": "A man plays a guitar.", "text2": "Someone plays an instrument."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    (tmp_path / "articles").mkdir()
    article = json.dumps({"abstract": "中华人民共和国公民的基本权利和义务。"}) + "\n"
    (tmp_path / "articles" / "laws.jsonl.gz").write_bytes(gzip.compress(article.encode()))
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "The sky is blue."}]), tmp_path / "sentences.parquet")
    yield tmp_path
    if distributed.is_initialized():  # by the page on parallel models
        distributed.destroy_process_group()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_code_blocks_run(page: Path, workplace: Path) -> None:
    namespace: dict[str, object] = {}
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_run(page: Path, workplace: Path) -> None:
    for command in commands(page):
        result = CliRunner().invoke(app, shlex.split(command, comments=True))
        assert result.exit_code == 0, f"{command}: {result.output} {result.exception}"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    lines = [line for block in blocks(ROOT / "README.md", "bash") for line in block.splitlines() if "pytest" in line]
    install_and_test = lines[0].partition("activate && ")[2]
    assert install_and_test
    assert install_and_test in map(str.strip, (ROOT / ".ci" / "run").read_text().splitlines())


def test_the_example_architecture_is_under_40_lines() -> None:
    example = blocks(ROOT / "docs" / "new-architecture.md", "python")[0]
    assert len([line for line in example.splitlines() if line.strip()]) < 40


CHINESE = [(ROOT / "README.md", ROOT / "README_zh.md")]
ZH = ROOT / "docs" / "zh"
CHINESE += [(ROOT / "docs" / page.relative_to(ZH), page) for page in sorted(ZH.rglob("*.md"))]


@pytest.mark.parametrize(("english", "chinese"), CHINESE, ids=lambda page: page.name)
def test_pages_show_the_same_code_in_both_languages(english: Path, chinese: Path) -> None:
    def without_comments(page: Path) -> list[str]:
        return [re.sub(r"\s*#.*", "", text) for text in blocks(page, "(?:python|bash)")]

    assert without_comments(english) == without_comments(chinese)
