"""Commands with ``--adapter``."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagai.cli import app
from flagai.errors import InputError
from tests import folders
from tests.adapters.made import with_adapters


def test_a_command_computes_with_an_adapter(tmp_path: Path) -> None:
    folders.write(tmp_path, "RoBERTa-base-ch", "BertModel")
    with_adapters(folders.model("RoBERTa-base-ch", "BertModel"), "law").save_adapter(tmp_path / "law", "law")
    usual = ["embed", "今天", "--model", "RoBERTa-base-ch", "--model-dir", str(tmp_path), "--device", "cpu"]

    def vector(*more: str) -> list[float]:
        found = CliRunner().invoke(app, [*usual, *more], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return list(json.loads(found.stdout.splitlines()[-1])["embedding"])

    assert vector("--adapter", str(tmp_path / "law")) != vector()


@pytest.mark.parametrize("entry", ["law", "=x", "law="])
def test_a_server_wants_names_of_adapters(entry: str) -> None:
    found = CliRunner().invoke(app, ["serve", "GLM-mini-ch", "--adapter", entry])
    assert isinstance(found.exception, InputError)
    assert "Write it as --adapter law=adapters/law" in str(found.exception)


def test_adapters_go_with_one_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    found = CliRunner().invoke(app, ["serve", "GLM-mini-ch", "x", "--port", "0", "--adapter", f"a={tmp_path}"])
    assert "Adapters go with one model, not with 2" in str(found.exception)
