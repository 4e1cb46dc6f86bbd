"""Options do what their help says, or are refused before a model is loaded, under the names that one types."""

import inspect
import json
import logging
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from flagai import cli
from flagai.cli import output
from flagai.cli.command import in_options
from flagai.cli.input import as_typed
from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.predictor.predictor import Predictor
from tests import folders
from tests.tools.commands import fails, lines, run

pytestmark = pytest.mark.usefixtures("models")


def refused(monkeypatch, *arguments, text=None):
    """The message of a command that is refused before anything is loaded."""
    with monkeypatch.context() as patch:
        patch.setattr(BaseModel, "load_checkpoint", lambda *_, **__: pytest.fail("a model was loaded"))
        return fails(InputError, *arguments, text=text)


@pytest.mark.parametrize("name", [*cli.COMMANDS, "cache list", "cache remove"])
def test_help_swallows_nothing(name):
    shown = " ".join(run(*name.split(), "--help").split())
    function = cli.COMMANDS.get(name)
    for word in re.findall(r"\[\w+\]", inspect.getdoc(function) or "") if function else []:
        assert word in shown
    assert "-v" in shown


def test_the_log_is_switched_on_before_and_after_the_command():
    for command in (["-v", "list"], ["list", "-v"], ["cache", "list", "--verbose"]):
        logging.getLogger().setLevel(logging.WARNING)
        run(*command)
        assert logging.getLogger().level == logging.INFO or command[0] == "-v"


REFUSED = {
    "poem 花 --sample --beams 3": "--beams has no meaning with --sample. Add --search",
    "poem 花 --beams 3 --seed 1": "--beams has no meaning with --seed. Leave one of them out.",
    "write 花 --beams 3 --temperature 2": "--beams has no meaning",
    "title 花 --top-k 3 --seed 1": "--seed, --top-k has no meaning with --search. Add --sample",
    "title 花 --sample --length-penalty 1": "--length-penalty has no meaning",
    "title 花 --beams 1 --length-penalty 2": "--length-penalty has no meaning with --beams 1",
    "title 花 --prompt-lookup-num-tokens 7": "token by token: expected --beams 1 and --num-return-sequences 1.",
    "title 花 --n-best 5": "--num-return-sequences 5 exceeds --beams 4",
    "title 花 --n-best=5 --num-return-sequences 4": "--n-best is the former name of --num-return-sequences",
    "title 花 --prompt-lookup 7": "token by token: expected --beams 1 and --num-return-sequences 1.",
    "title 花 --length-penalty inf": "--length-penalty is inf; expected a number, at least",
    "title \udcff": "Text 1 is not UTF-8: '\\udcff'. Convert it first.",
    "match 花 \udcff": "The second text is not UTF-8",
    "title 花 -n 5": "--num-return-sequences 5 exceeds --beams 4",
    "title 花 --max-length 0": "--max-length is 0; expected an integer",
    "poem 花 --temperature 0": "--temperature is 0.0; expected a number, more than 0",
    "poem 花 --repetition-penalty -1": "--repetition-penalty is -1.0",
    "poem 花 --seed -1": "--seed holds -1",
    "write 花 --device gpu": "--device 'gpu' cannot be used here. This machine has: cpu",
    "write 花 --quantize int3": "--quantize 'int3' is unknown",
    "classify 花 --model GPT2-base-ch": "--labels",
    "classify 花 --model GPT2-base-ch --labels 好,好": "--labels",
    "classify 花 --model GPT2-base-ch --labels 好,": "--labels",
    "fill 花[MASK] --model RoBERTa-base-ch --beams 2": "--beams has no meaning with a BERT",
    "fill 花[MASK] 花": "Text 2 has no blank",
    "title 花 --out x.npy": "--out x.npy is arrays by its ending .npy",
}


def test_former_flags_are_named_in_a_warning(monkeypatch, caplog):
    refused(monkeypatch, "title", "花", "--n-best", "5")
    assert "--n-best is now called --num-return-sequences" in caplog.text
    caplog.clear()
    assert "is not a title for a poem" in refused(monkeypatch, "poem", "--", "--n-best=" + 20 * "花")  # here a text
    assert not caplog.text


@pytest.mark.parametrize("command", REFUSED)
def test_what_is_impossible_is_refused_before_loading(monkeypatch, command):
    assert REFUSED[command] in refused(monkeypatch, *command.split(" "))


def test_arguments_and_stdin_are_utf8_in_any_locale():
    """In an ASCII locale, Python hands over the bytes of an argument as lone surrogates."""
    assert as_typed("花", "Text 1") == "花"
    program = (
        "import sys; from pathlib import Path; from flagai.cli.input import as_typed, read_lines; "
        "print(ascii((as_typed(sys.argv[1], ''), *read_lines(Path('-')))))"
    )
    ascii_only = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    command = [sys.executable, "-c", program, "花"]
    found = subprocess.run(command, env=ascii_only, input="花\n".encode(), capture_output=True, check=True)
    assert found.stdout.decode().split() == ["('\\u82b1',", "'\\u82b1')"]


def test_a_file_without_text_is_told(caplog):
    assert run("title", "--file", "-", text="\n\n") == ""
    assert "the standard input holds no text" in caplog.text


def test_out_of_memory_says_what_to_lower(monkeypatch):
    refusal = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
    monkeypatch.setattr(Predictor, "write", lambda *_, **__: (_ for _ in ()).throw(refusal))
    result = CliRunner().invoke(cli.app, ["title", "花", "--model", "GLM-large-ch"])
    assert isinstance(result.exception, InputError)
    assert "you tried to allocate 9 bytes" in str(result.exception)
    assert "Lower --batch-size, --beams, --num-return-sequences, --max-length" in str(result.exception)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("top_k is -1; expected", "--top-k is -1; expected"),
        ("seed is 'a'; give seed or seeds, not both", "--seed is 'a'; give seed or seeds, not both"),
        ("Raise out_max_length.", "Raise --max-length."),
        ("quantize='int3' is unknown", "--quantize 'int3' is unknown"),
        ("There are 3 labels, my_top_k and top_k2", "There are 3 labels, my_top_k and top_k2"),
        ("Recipe: top_k is -1, expected", "--top-k is -1, expected"),
        ("Recipe: seed is 'a', expected int", "--seed is 'a', expected int"),
        ("The file 'top_k' is absent", "The file 'top_k' is absent"),
    ],
)
def test_messages_name_options(message, expected):
    options = {"top_k": "--top-k", "seed": "--seed", "max_length": "--max-length", "quantize": "--quantize"}
    assert in_options(message, options | {"labels": "--labels"}) == expected


def test_several_answers_to_each_text():
    short = ["--max-length", "4", "--seed", "1", "--json"]
    (row,) = lines(run("poem", "桃花", "-n", "3", *short, "--model", "GLM-large-ch"))
    assert len(row["poem"]) == len(row["scores"]) == 3
    assert len(set(row["poem"])) > 1
    (one,) = lines(run("poem", "桃花", *short, "--model", "GLM-large-ch"))
    assert one["poem"] in row["poem"]
    titles = run("title", "今天", "明天", "-n", "2", "--max-length", "3", "--model", "GLM-large-ch").splitlines()
    assert len(titles) == 4


def test_equal_texts_have_answers_of_their_own_whatever_the_batch():
    poems = ["poem", "--model", "GLM-large-ch", "--max-length", "6", "--json"]
    together = lines(run(*poems, "桃花", "月", "桃花", "--seed", "4"))
    assert together[0]["poem"] != together[2]["poem"]
    assert lines(run(*poems, "桃花", "月", "桃花", "--seed", "4", "--batch-size", "1")) == together
    for text, seed, row in (("桃花", "4", together[0]), ("月", "4", together[1]), ("桃花", "5", together[2])):
        assert lines(run(*poems, text, "--seed", seed)) == [row]


@pytest.mark.parametrize("text", ["今天", "今天[MASK]，明天[sMASK]"])
def test_a_pipe_holds_what_a_terminal_shows(text):
    """A GLM's answer without the prompt and without command tokens."""
    written = ["write", text, "--model", "GLM-large-ch", "--seed", "2", "--max-length", "5"]
    piped = run(*written)
    assert not re.search(r"\[CLS\]|\[gMASK\]|startofpiece|endofpiece", piped)
    (row,) = lines(run(*written, "--json"))
    assert row["continuation"] + "\n" == piped


def test_blank_lines_are_named_by_their_number(monkeypatch, caplog, tmp_path):
    text = "桃花\n\n月\n \n"
    assert "the standard input, line 2: '' is not a title" in refused(monkeypatch, "poem", text=text)
    assert "the standard input, line 1 has no blank" in refused(monkeypatch, "fill", text=text)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    rows = lines(run("embed", "--file", str(tmp_path / "a.txt"), "--model", "RoBERTa-base-ch"))
    assert [row["text"] for row in rows] == ["桃花", "", "月", " "]
    assert "a.txt: line 2, 4 blank, read as an empty text" in caplog.text


def test_no_color(monkeypatch):
    code = "import sys; sys.stderr.isatty = sys.stdout.isatty = lambda: True; from flagai.cli import main; main()"
    shown = {}
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        result = subprocess.run([sys.executable, "-c", code, "show", "nothing"], capture_output=True, check=False)
        shown[value] = b"\x1b[" in result.stderr
    assert shown == {"": True, "1": False}


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(output, "SECONDS_BETWEEN_LINES", 0.0)
    result = CliRunner().invoke(cli.app, ["embed", "one", "two", "three", "--batch-size", "1"])
    assert "1 of 3 texts\n2 of 3 texts\n" in result.stderr
    assert "texts" not in "".join(result.stdout.split('"text"'))


def test_tables_and_odd_files_are_read_or_named(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text('id,body\n1,"one, two"\n2,three\n')
    rows = lines(run("embed", "--file", str(tmp_path / "a.csv"), "--field", "body"))
    assert [(row["id"], row["body"]) for row in rows] == [("1", "one, two"), ("2", "three")]
    (tmp_path / "b.txt").write_text("plain\n{not json\n")
    assert [row["text"] for row in lines(run("embed", "--file", str(tmp_path / "b.txt")))] == ["plain", "{not json"]
    (tmp_path / "c.jsonl").write_text('{"text": "a"}\n' + "[" * 100_000 + "\n")
    (tmp_path / "d.gz").write_bytes(b"no gzip")
    (tmp_path / "e.csv").write_text("text1,text2\na,a\n")
    assert "c.jsonl, line 2 is not JSON" in refused(monkeypatch, "title", "--file", str(tmp_path / "c.jsonl"))
    assert "d.gz cannot be read" in refused(monkeypatch, "title", "--file", str(tmp_path / "d.gz"))
    assert run("match", "--file", str(tmp_path / "e.csv")) == "1.0000\ta\ta\n"


def test_classes_have_the_names_of_the_configuration(home, caplog):
    names = {"0": "差评", "1": "好评"}
    folder = folders.write(home, "RoBERTa-base-ch", "BertForClsClassifier", folder="named", class_num=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": names}))
    (folder / "vocab.txt").write_bytes((home / "RoBERTa-base-ch" / "vocab.txt").read_bytes())
    (row,) = lines(run("classify", "今天", "--model", "named", "--json"))
    assert set(row["scores"]) == set(names.values())
    assert row["class"] in names.values()
    assert "renames" not in caplog.text
    (row,) = lines(run("classify", "今天", "--model", "named", "--labels", "x,y", "--json"))
    assert set(row["scores"]) == {"x", "y"}
    assert "差评, 好评 (config.json) are called x, y" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ner", "今天", "--labels", ""), "empty name"),
        (("ner", "今天", "--labels", "O,,B-PER"), "empty name"),
        (("ner", "今天", "--head", "gp", "--labels", "B-PER,I-PER"), "types alone"),
        (("classify", "今天", "--model", "GLM-large-ch", "--labels", "好评"), "single class"),
    ],
)
def test_impossible_labels_are_refused_before_loading(monkeypatch, arguments, message):
    assert message in refused(monkeypatch, *arguments)


@pytest.mark.parametrize("model", ["GLM-large-ch", "GPT2-base-ch"])
def test_language_models_score_labels(model):
    (row,) = lines(run("classify", "今天", "--model", model, "--labels", "好, 坏", "--json"))
    assert row["scores"].keys() == {"好", "坏"}


def test_a_trained_glm_classifies_without_labels(home):
    folder = folders.write(
        home, "GLM-large-ch", "GLMForSequenceClassification", folder="GLM-large-ch-classification", class_num=3
    )
    (row,) = lines(run("classify", "今天", "--model", "GLM-large-ch", "--json"))
    assert list(row["scores"]) == ["0", "1", "2"]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_beams_alone_ask_for_search():
    typed = ("poem", "花", "--beams", "2", "--max-length", "5")
    assert run(*typed) == run(*typed, "--search")


@pytest.mark.parametrize(
    ("task", "name"), [*cli.TASK_COMMANDS.items(), ("poetry-generation", "poem"), ("cls", "classify")]
)
def test_a_task_calls_its_command(task, name):
    shown, own = (run(typed, "--help").partition("\n\n")[2] for typed in (task, name))
    assert shown == own


def test_an_unknown_command_is_refused():
    assert CliRunner().invoke(cli.app, ["poems"]).exit_code == 2
