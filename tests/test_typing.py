"""What a type checker knows of the front door: options by name and type, and what comes back."""

import inspect
import re
import textwrap
import typing

import pytest

import flagai
from flagai.pipelines import PIPELINES

REVEALED = {
    'flagai.load("poetry")("花", seed=1)': "WrittenText",
    'flagai.load("title-generation")(["花"], num_beams=4)': "list[WrittenText]",
    'flagai.load("writing")("花", num_return_sequences=2, do_sample=True)': "list[Written]",
    'flagai.load("ner")(["花"])': "list[list[Entity]]",
    'flagai.load("masklm", dtype="float16")("[MASK]")': "list[Filled]",
    'flagai.load("embedding")(["花"])': "Tensor",
    'flagai.load("semantic-matching")(("花", "草"))': "Similarity",
    'flagai.load("classification", "GPT2-base-ch")(["花"], labels=["a", "b"])[0].scores': "Mapping[str, float]",
    'predictor.write("花", top_p=0.9)': "WrittenText",
    'predictor.write(["花"], num_return_sequences=2)': "list[list[Written]]",
    'predictor.predict_generate_randomsample(["花"], seed=1)': "list[str]",
    'predictor.predict_ner("花")[0].start': "int",
    'predictor.predict_cls_classifier(("花", "草"))': "int",
    "flagai.list_models()[0].parameters": "int",
}
WRONG = {
    'flagai.load("poetry")("花", sede=1)': "sede",
    'flagai.load("poetry")("花", seed="one")': "call-overload",
    'flagai.load("poetry", devise="cpu")': "devise",
    'predictor.write("花", n_best=3)': "n_best",
    'predictor.write("花", stop=5)': "call-overload",
    'predictor.stream("花", num_beams=2.5)': "arg-type",
    "predictor.predict_generate_beamsearch(5)": "predict_generate_beamsearch",
    "flagai.Autoloader": "Autoloader",
}


@pytest.mark.slow
def test_a_checker_finds_wrong_options_and_knows_results(tmp_path):
    lines = ["import flagai", "def check(predictor: flagai.Predictor) -> None:"]
    lines += [f"    reveal_type({call})" for call in REVEALED] + [f"    {call}" for call in WRONG]
    program = tmp_path / "program.py"
    program.write_text("\n".join(lines) + "\n", encoding="utf-8")
    from mypy import api  # only the slow test needs it

    output, trouble, _ = api.run([str(program), "--strict", "--no-error-summary", "--follow-imports=silent"])
    assert not trouble
    told = [""] * (len(lines) + 1)
    for number, text in re.findall(r"program\.py:(\d+): (.*)", output):
        told[int(number)] += text + "\n"
    for number, (call, kind) in enumerate(REVEALED.items(), 3):
        (found,) = re.findall(r'note: Revealed type is "(.*)"', told[number])
        short = re.sub(r"[\w.]+\.", "", found)
        assert re.sub(r"tuple\[.*?fallback=(\w+)\]", r"\1", short) == kind, call
        assert "error" not in told[number], call
    for number, (call, what) in enumerate(WRONG.items(), 3 + len(REVEALED)):
        assert "error" in told[number], call
        assert what in told[number], call


def public_signatures():
    classes = [flagai.AutoLoader, flagai.Predictor, flagai.SentenceEmbedder, *PIPELINES.values()]
    for owner in classes:
        for name in dir(owner):
            if not name.startswith("_") or name in ("__init__", "__call__"):
                function = inspect.unwrap(getattr(owner, name))
                if inspect.isfunction(function) and function.__module__.startswith("flagai"):
                    yield f"{owner.__name__}.{name}", function
    yield "load", flagai.load
    yield "list_models", flagai.list_models


@pytest.mark.parametrize(("name", "function"), [*public_signatures()])
def test_no_public_signature_says_any(name, function):
    for signature in typing.get_overloads(function) or [function]:
        assert not re.search(r"\bAny\b", str(inspect.signature(signature))), textwrap.shorten(name, 80)
