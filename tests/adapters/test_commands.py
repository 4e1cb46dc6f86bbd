"""Commands with ``--adapter``."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flagai.cli import app
from flagai.errors import InputError
from flagai.model.gpt2_model import GPT2Model
from tests import folders, tiny
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


@pytest.mark.parametrize("more", [[], ["--quantize", "int8"]], ids=" ".join)
def test_an_adapter_is_merged_into_a_converted_model(more: list[str], tmp_path: Path) -> None:
    model = with_adapters(tiny.build("GPT2Model", n_embd=32, n_inner=32, n_head=4), "law")
    model.save_pretrained(tmp_path / "base")
    model.save_adapter(tmp_path / "law", "law")
    arguments = [str(tmp_path / "base"), str(tmp_path / "whole"), "--adapter", str(tmp_path / "law"), *more]
    assert CliRunner().invoke(app, ["convert", *arguments], catch_exceptions=False).exit_code == 0
    model.merge_adapter("law")
    ids = tiny.ids(30, 2, 6)
    with torch.inference_mode():
        found, wanted = (each(ids)["logits"] for each in (GPT2Model.from_pretrained(tmp_path / "whole"), model))
    assert (found - wanted).norm() < (0.1 if more else 1e-5) * wanted.norm()
