"""Tasks on the command line: texts in from everywhere, answers out for people and programs."""

import json

import pytest
from typer.testing import CliRunner

from flagai import cli
from flagai.cli import terminal
from flagai.errors import InputError, ModelNotFoundError
from tests import folders
from tests.tools.commands import fails, lines, run

LABELS = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]


pytestmark = pytest.mark.usefixtures("models")


def test_titles_from_arguments_files_and_stdin(tmp_path):
    short = ["--max-length", "4", "--json"]
    texts = ["今天天气不错", "可穿戴产品的设计原则"]
    from_arguments = lines(run("title", *texts, *short))
    assert [row["text"] for row in from_arguments] == texts
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    assert lines(run("title", "--file", str(tmp_path / "texts.txt"), *short)) == from_arguments
    assert lines(run("title", *short, text="\n".join(texts))) == from_arguments
    rows = [{"id": number, "body": text} for number, text in enumerate(texts)]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    named = lines(run("title", "-f", str(tmp_path / "texts.jsonl"), "--field", "body", *short))
    assert [row["title"] for row in named] == [row["title"] for row in from_arguments]
    assert [row["id"] for row in named] == [0, 1]


def test_a_file_of_answers_is_written_whole(tmp_path):
    out = tmp_path / "out.jsonl"
    assert run("title", "今天", "--max-length", "3", "--out", str(out)) == ""
    (row,) = lines(out.read_text(encoding="utf-8"))
    assert row["text"] == "今天"
    fails(InputError, "title", "今天", "--max-length", "0", "--out", str(out))
    assert lines(out.read_text(encoding="utf-8")) == [row]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_poem_has_a_form_and_a_seed():
    poems = [run("poem", "桃花", "--form", "五言绝句", "--seed", seed, "--max-length", "8") for seed in "1123"]
    assert poems[0] == poems[1]
    assert len(set(poems)) > 1
    for title in ("桃花：五言绝句", "桃花:五言绝句"):
        assert run("poem", title, "--seed", "1", "--max-length", "8") == poems[0]
    assert "says the form 五言绝句, not 七言绝句" in fails(InputError, "poem", "桃花:五言绝句", "--form", "七言绝句")
    assert "'词' is not a form of a poem" in fails(InputError, "poem", "桃花：词")
    assert "1 to 20" in fails(InputError, "poem", "花" * 21)
    assert CliRunner().invoke(cli.app, ["poem", "桃花", "--form", "六言"]).exit_code == 2


def test_writing_and_filling():
    assert run("write", "今天", "--max-length", "5", "--seed", "1")
    (row,) = lines(run("fill", "北京是[MASK]的首都", "-n", "2", "--max-length", "3", "--json"))
    assert len(row["filled"]) == 2
    best = row["filled"][0]
    start, end = best["spans"][0]
    assert best["text"][start:end] == best["fillings"][0]
    assert run("fill", "北京是[MASK]的首都", "--max-length", "3").endswith(best["text"] + "\n")
    assert "no blank" in fails(InputError, "fill", "北京")


def test_entities_for_programs_and_people(monkeypatch, capsys):
    (row,) = lines(run("ner", "小明在北京大学读书", "--json"))
    assert all(entity.keys() == {"start", "end", "type", "text", "score"} for entity in row["entities"])
    labels = ",".join(LABELS)
    assert lines(run("ner", "小明在北京大学读书", "--json", "--labels", labels)) == [row]
    assert "no head" in fails(InputError, "ner", "小明", "--head", "lstm")
    terminal.show_entities("小明在北\n京", [(0, 1, "PER"), (3, 5, "LOC")], 1)
    terminal.show_entities("在", [], 2)
    assert capsys.readouterr().out == "1\t0\t1\tPER\t小明\n1\t3\t5\tLOC\t北 京\n2\t\t\t\t\n"


def test_entities_in_a_pipe_say_which_line_they_are_of(tmp_path):
    for name, lines_of_file in (
        ("a.txt", ["小明", "", "北京"]),
        ("a.jsonl", ['{"text": "小明"}', "", '{"text": "北京"}']),
    ):
        (tmp_path / name).write_text("\n".join(lines_of_file) + "\n", encoding="utf-8")
        printed = run("ner", "--file", str(tmp_path / name), "--batch-size", "2").splitlines()
        numbers = {int(line.split("\t")[0]) for line in printed}
        assert numbers == ({1, 2, 3} if name == "a.txt" else {1, 3})
        assert all(len(line.split("\t")) == 5 for line in printed)


def test_colours_on_a_terminal(monkeypatch, capsys):
    from rich.console import Console

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(terminal, "console", lambda: Console(force_terminal=True, width=80, color_system="standard"))
    terminal.show_entities("小明在北京", [(0, 1, "PER"), (3, 4, "LOC")], 1)
    terminal.show_scores("好", {"yes": 0.75, "no": 0.25})
    terminal.show_filled("北京是中国的", ((3, 5),), -1.5)
    shown = capsys.readouterr().out
    assert "\x1b[1;" in shown
    assert "█" * 18 in shown


def test_classes_and_matches():
    (row,) = lines(
        run("classify", "今天天气不错", "--model", "RoBERTa-base-ch-semantic-matching", "--labels", "no,yes", "--json")
    )
    assert row["scores"].keys() == {"no", "yes"}
    assert sum(row["scores"].values()) == pytest.approx(1)
    assert row["class"] == max(row["scores"], key=row["scores"].get)
    (asked,) = lines(run("classify", "今天", "--model", "GPT2-base-ch", "--labels", "好,坏", "--json"))
    assert asked["scores"].keys() == {"好", "坏"}
    matched = run("match", "今天", "明天", "--model", "RoBERTa-base-ch-semantic-matching")
    assert 0 <= float(matched) <= 1
    assert -1 <= float(run("match", "今天", "明天", "--model", "RoBERTa-base-ch")) <= 1


def test_a_glm_that_was_trained_for_matching_tells_a_probability(home):
    """By its trained head; the cosine of equal texts would be 1."""
    options = {"folder": "GLM-matching", "class_num": 2}
    folder = folders.write(home, "GLM-large-ch", "GLMForSequenceClassification", **options)
    for path in (home / "GLM-large-ch").iterdir():
        if not (folder / path.name).exists() and path.suffix != ".bin":
            (folder / path.name).write_bytes(path.read_bytes())
    similarity = float(run("match", "今天", "今天", "--model", "GLM-matching"))
    assert 0 < similarity < 0.999


@pytest.mark.parametrize("model", ["GLM-large-ch", "GPT2-base-ch", "RoBERTa-base-ch"])
def test_every_family_embeds_and_matches(model):
    (row,) = lines(run("embed", "今天", "--model", model))
    assert len(row["embedding"]) == 12
    assert float(run("match", "今天", "今天", "--model", model)) == pytest.approx(1)


def test_odd_lines_are_read():
    """A mark at the beginning, empty lines between objects, halves of characters."""
    write = ["write", "--max-length", "2", "--seed", "1", "--json"]
    objects = '\ufeff{"text": "今天"}\n\n{"text": "\\ud800", "note": "\\udfff"}\n'
    rows = lines(run(*write, text=objects))
    assert [row["text"] for row in rows] == ["今天", "\ud800"]
    assert rows[1]["note"] == "\udfff"
    assert [row["text"] for row in lines(run(*write, text="今天\n\n明天\n"))] == ["今天", "", "明天"]


def test_answers_with_halves_of_characters_go_to_files(tmp_path):
    run("write", "--max-length", "2", "--out", str(tmp_path / "a.jsonl"), text='{"text": "\\ud800"}')
    assert lines((tmp_path / "a.jsonl").read_text(encoding="utf-8"))[0]["text"] == "\ud800"


def test_embeddings_keep_the_fields_of_their_lines():
    (row,) = lines(run("embed", "--model", "RoBERTa-base-ch", "--file", "-", text='{"id": 7, "text": "今天"}\n'))
    assert row["id"] == 7
    assert len(row["embedding"]) == 12


@pytest.mark.parametrize(
    ("error", "arguments", "text", "message"),
    [
        (InputError, ["title", "a", "--file", "x"], None, "not both"),
        (InputError, ["title", "--file", "/no/such/file"], None, "cannot be read"),
        (InputError, ["title", "--file", "-"], '{"text": 5}', "line 1 has no text in 'text'"),
        (InputError, ["title", "--file", "-"], '{"text": "a"}\n{broken', "line 2 is not JSON"),
        (ModelNotFoundError, ["title", "a", "--model", "GLM-larg-ch"], None, "Did you mean GLM-large-ch"),
        (InputError, ["ner", "a", "--model", "GPT2-base-ch"], None, "cannot do 'ner'"),
        (InputError, ["title", "a", "--device", "cuda:77"], None, "cuda:77"),
        (
            InputError,
            ["classify", "a", "--model", "RoBERTa-base-ch-semantic-matching", "--labels", "a,b,c"],
            None,
            "3 labels, but the model knows 2",
        ),
        (InputError, ["classify", "a", "--model", "GPT2-base-ch", "--labels", "a,,b"], None, "different names"),
    ],
    ids=str,
)
def test_wrong_calls_say_what_is_wrong(error, arguments, text, message):
    assert message in fails(error, *arguments, text=text)


def test_no_text_gives_no_answer():
    assert run("title", text="") == ""


def test_matches_go_to_a_file_in_batches(tmp_path):
    """As the siblings do: every field of the input stays, and a table in gives a table out."""
    pairs = [{"id": number, "text1": "今天" * (number + 1), "text2": "明天"} for number in range(5)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    found = {}
    for model in ("RoBERTa-base-ch", "RoBERTa-base-ch-semantic-matching"):
        for size in ("2", "9"):
            out = tmp_path / f"{model}{size}.jsonl"
            options = ["--model", model, "--batch-size", size, "--out", str(out)]
            assert run("match", "--file", str(tmp_path / "in.jsonl"), *options) == ""
            found[size] = [json.loads(line) for line in out.read_text().splitlines()]
        assert [{name: row[name] for name in pairs[0]} for row in found["2"]] == pairs
        for few, all_ in zip(found["2"], found["9"], strict=True):
            assert few["similarity"] == pytest.approx(all_["similarity"], abs=1e-5)
    run("match", "--file", str(tmp_path / "in.jsonl"), "--model", "RoBERTa-base-ch", "--out", str(tmp_path / "o.csv"))
    assert (tmp_path / "o.csv").read_text().splitlines()[0] == "id,text1,text2,similarity"
