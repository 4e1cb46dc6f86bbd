"""Recipe files: read, overridden by options, written beside the result, and repeated exactly."""

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagai.checkpoint.reader import open_checkpoint
from flagai.cli import app
from flagai.errors import InputError
from flagai.train.checksums import prefix_digest
from flagai.train.recipe import Recipe
from flagai.train.run_file import read_run, write_run

pytest.importorskip("accelerate")
# A value of every field that is not its default.
OTHER = Recipe(
    epochs=2, learning_rate=1e-2, head_rate=2.0, batch_tokens=64, accumulate=2, warmup=0.2, schedule="linear",
    weight_decay=0.1, clip=0.5, seed=7, max_length=32, max_target_length=9, held_out=0.25, evaluate_every=3, patience=2,
    save_every=4, save_minutes=1.5, lora_rank=2, precision="no", checkpoint_activations=True, packing=False, fsdp=False,
    compile=False, workers=0, temperature=0.1, scheme="bio", generated=3,
)  # fmt: skip


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["finetune", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def written(home: Path) -> Path:
    """A recipe for a run in the folder ``home``."""
    given = {"task": "ner", "model": "RoBERTa-base-ch", "data": home / "ner.jsonl", "model_dir": home}
    write_run(home / "run.toml", given, OTHER, "by hand")
    return home / "run.toml"


def test_every_field_can_be_set(written: Path) -> None:
    found = read_run(written)
    assert Recipe(**{field.name: found[field.name] for field in fields(Recipe) if field.name in found}) == OTHER
    assert {field.name for field in fields(Recipe)} <= found.keys()


def test_a_run_is_repeated_exactly_by_the_recipe_it_wrote(home: Path, written: Path) -> None:
    run("--recipe", written, "--out", home / "one", "--epochs", 1, "--lora", 0)
    content = tomllib.loads((home / "one" / "recipe.toml").read_text(encoding="utf-8"))
    assert content.keys() >= {field.name for field in fields(Recipe)}
    assert (content["epochs"], content["lora_rank"], content["schedule"]) == (1, 0, "linear")
    run("--recipe", home / "one" / "recipe.toml", "--out", home / "two")
    one, two = (open_checkpoint(home / name) for name in ("one", "two"))
    assert all(one.tensors(name)[0].equal(two.tensors(name)[0]) for name in one)
    assert (home / "one" / "recipe.toml").read_bytes() == (home / "two" / "recipe.toml").read_bytes()


def test_data_that_changed_is_refused(home: Path, written: Path) -> None:
    with written.open("a") as file:
        file.write(f"data_sha256 = '{prefix_digest(home / 'ner.jsonl')}'\n")
    (home / "ner.jsonl").rename(home / "other.jsonl")
    (home / "ner.jsonl").write_bytes(2 * (home / "other.jsonl").read_bytes())
    with pytest.raises(InputError, match=r"ner.jsonl has other content.*remove the line data_sha256"):
        run("--recipe", written, "--out", home / "mine")
    short = ("--out", home / "mine", "--epochs", 1, "--evaluate-every", 0, "--save-every", 0)
    run("--recipe", written, "--data", home / "other.jsonl", *short)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch = 3", "unknown field 'epoch'. Did you mean 'epochs'?"),
        ("learning-rat = 3", "Did you mean 'learning_rate'?"),
        ("zzz = 1", "Known: task, model, data"),
        ("epochs = 0", "epochs is 0, expected a number from 1"),
        ("epochs = 'x'", "epochs is 'x', expected int"),
        ("data = 3", "data is 3, expected str"),
        ("columns = {text = 1}", "columns is {'text': 1}; expected names"),
        ("epochs = ", "cannot be read: Invalid value"),
        ("precision = 'fp4'", "precision is 'fp4'; known: no, fp16"),
        ("schedule = 'step'", "schedule is 'step'; known: cosine"),
    ],
)
def test_what_a_recipe_cannot_say(home: Path, line: str, message: str) -> None:
    (home / "run.toml").write_text(f"task = 'ner'\n{line}\n")
    with pytest.raises(InputError) as error:
        run("--recipe", home / "run.toml")
    assert message in str(error.value)


def test_what_neither_says_is_named(home: Path) -> None:
    (home / "run.toml").write_text("task = 'ner'\nlearning-rate = 0.1\n")
    with pytest.raises(InputError, match=r"No data is given. Add --data FILE, or `data = ...`"):
        run("--recipe", home / "run.toml")
    with pytest.raises(InputError, match="No task is given"):
        run()
    with pytest.raises(InputError, match=r"absent.toml cannot be read: No such file"):
        run("--recipe", home / "absent.toml")


def test_texts_of_all_kinds_come_back(tmp_path: Path) -> None:
    given = {"task": 'a"\\\n\x7f\t字', "columns": {"text": "摘 要", 'a"b': "c"}}
    write_run(tmp_path / "a.toml", given, Recipe(), "notes")
    assert {name: value for name, value in read_run(tmp_path / "a.toml").items() if name in given} == given
