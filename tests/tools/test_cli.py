"""The command line, as a user types it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from flagai import cli
from flagai.errors import FlagAIError, InputError, ModelNotFoundError, OfflineError
from flagai.model.bert_model import BertModel
from tests.oracle import ROOT as ORACLES


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli.app, arguments, input=text)


def fails(error: type[FlagAIError], *arguments: str) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, error), result.output
    return str(result.exception)


def test_match_prints_the_similarity() -> None:
    result = run("match", "A man is playing a guitar.", "Someone plays an instrument.")
    assert result.output.strip() == "0.6674"


def test_match_reads_pairs_from_stdin() -> None:
    line = json.dumps({"text1": "cat", "text2": "cat"}) + "\n"
    result = run("match", "--file", "-", "--json", text=line * 2)
    rows = [json.loads(row) for row in result.output.splitlines()]
    assert [row["similarity"] for row in rows] == pytest.approx([1, 1])
    assert rows[0]["text1"] == "cat"


def test_embed_writes_the_same_vectors_everywhere(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n")
    printed = [json.loads(row) for row in run("embed", "--file", str(tmp_path / "lines.txt")).output.splitlines()]
    assert [row["text"] for row in printed] == ["one", "", "two"]
    for name in ("out.safetensors", "out.jsonl"):
        assert run("embed", "one", "", "two", "--out", str(tmp_path / name)).exit_code == 0
    stored = load_file(tmp_path / "out.safetensors")["embeddings"]
    lines = [json.loads(row)["embedding"] for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    torch.testing.assert_close(stored, torch.tensor(lines))
    torch.testing.assert_close(stored, torch.tensor([row["embedding"] for row in printed]))


def test_wrong_calls_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text1": "a"}\n')
    (tmp_path / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    assert "two sentences" in fails(InputError, "match", "one")
    assert "not both" in fails(InputError, "match", "one", "two", "--file", "x")
    assert "line 1" in fails(InputError, "match", "--file", str(tmp_path / "bad.jsonl"))
    assert "cannot be read" in fails(InputError, "embed", "--file", str(tmp_path / "absent"))
    assert "not UTF-8" in fails(InputError, "embed", "--file", str(tmp_path / "latin1.txt"))
    assert "flagai list" in fails(ModelNotFoundError, "embed", "x", "--model", "no-such-model")


def test_an_uninstalled_model_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = '["absent"]\nlike = "all-MiniLM-L6-v2"\nsources = ["package:no_such_package/model"]\n'
    card += 'install = "pip install it"\n'
    (tmp_path / "absent.toml").write_text(card)
    monkeypatch.setenv("FLAGAI_CARDS", str(tmp_path))
    assert "pip install it" in fails(OfflineError, "match", "a", "b", "--model", "absent")


def test_errors_end_the_process_with_one_message() -> None:
    command = [sys.executable, "-m", "flagai", "embed", "x", "--model", "/no/such/folder"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: There is no folder")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("case", ["bert_model", "glm_deepspeed_mp2_fp16", "gpt2_native_linear", "t5_relu_tied"])
@pytest.mark.parametrize("layout", ["flagai", "huggingface"])
def test_convert_keeps_the_weights(case: str, layout: str, tmp_path: Path) -> None:
    from flagai.auto_model.registry import find_class
    from flagai.checkpoint.reader import open_checkpoint
    from flagai.typed_json import read_json

    target = tmp_path / "converted"
    assert (
        run("convert", str(ORACLES / case), str(target), "--layout", layout, "--max-shard-size", "20KB").exit_code == 0
    )
    assert (target / "model.safetensors.index.json").is_file()
    found, _ = find_class(read_json(target / "config.json"), open_checkpoint(target))
    before, after = found.from_pretrain(ORACLES, case), found.from_pretrained(target)
    for name, parameter in before.state_dict().items():
        assert torch.equal(parameter, after.state_dict()[name]), name


def test_convert_copies_the_tokenizer_and_casts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ORACLES / "bert_model", source)
    (source / "vocab.txt").write_text("[PAD]\n")
    output = run("convert", str(source), str(tmp_path / "target"), "--dtype", "bfloat16").output
    assert "BertForMaskLM" in output
    assert "vocab.txt" in output
    assert "cls.seq_relationship" in output  # named, because it is not carried over
    assert (tmp_path / "target" / "vocab.txt").read_text() == "[PAD]\n"
    assert next(BertModel.from_pretrained(tmp_path / "target").parameters()).dtype is torch.bfloat16


def test_convert_finds_the_head_and_its_classes(tmp_path: Path) -> None:
    for case, name in (("bert_crf", "BertForSequenceLabelingCRF"), ("glm_multichoice", "GLMForSequenceClassification")):
        assert name in run("convert", str(ORACLES / case), str(tmp_path / case)).output


def test_convert_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    source, target = str(ORACLES / "gpt2_lm"), str(tmp_path / "x")
    assert "layout" in fails(InputError, "convert", source, target, "--layout", "nobody's")
    assert "float8" in fails(InputError, "convert", source, target, "--dtype", "float8")
    assert "shard" in fails(InputError, "convert", source, target, "--max-shard-size", "much")
    assert "BertNothing" in fails(FlagAIError, "convert", source, target, "--model-class", "BertNothing")
    bert = str(ORACLES / "bert_native_model")
    assert "random ones" in fails(InputError, "convert", bert, target, "--model-class", "BertForMaskLM")
    assert not (tmp_path / "x").exists()


def test_doctor_is_content_with_a_sound_folder() -> None:
    result = run("doctor", str(ORACLES / "glm_flagai_mp2"))
    assert result.exit_code == 0
    assert "2 model-parallel parts" in result.output
    assert "fit GLMModel exactly" in result.output


def test_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "sick"
    model = BertModel.from_pretrain(ORACLES, "bert_model")
    with torch.no_grad():
        model.blocks[1].norm1.weight[0] = torch.nan
        model.blocks[0].feed_forward.up.weight.zero_()
    model.save_pretrained(folder)
    result = run("doctor", str(folder))
    assert result.exit_code == 1
    assert "1 tensors hold NaN" in result.output
    assert "nothing but zeros" in result.output
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in run("doctor", str(folder)).output
    (folder / "model.safetensors").write_bytes(b"short")
    assert run("doctor", str(folder)).exit_code == 1


def test_version_and_help() -> None:
    assert run("--version").output.startswith("flagai ")
    for command in ("match", "embed", "convert", "doctor"):
        assert run(command, "--help").exit_code == 0


def test_convert_never_overwrites_by_accident(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ORACLES / "bert_model", source)
    assert "source itself" in fails(InputError, "convert", str(source), str(source) + "/")
    assert "not empty" in fails(InputError, "convert", str(ORACLES / "gpt2_lm"), str(source))
    (source / "vocab.txt").write_text("theirs")
    target = tmp_path / "target"
    target.mkdir()
    (target / "vocab.txt").write_text("another model's")
    (target / "notes.txt").write_text("mine")
    assert run("convert", str(source), str(target), "--overwrite").exit_code == 0
    assert (target / "vocab.txt").read_text() == "theirs"
    assert (target / "notes.txt").read_text() == "mine"


def test_absent_devices_and_bad_places_are_named(tmp_path: Path) -> None:
    for device in ("gpu", "cuda:99", "cpu:-1", "none:"):
        message = fails(InputError, "match", "a", "b", "--device", device)
        assert f"--device '{device}' cannot be used here. This machine has: cpu" in message
    assert "cannot be written" in fails(InputError, "embed", "a", "--out", str(tmp_path))
