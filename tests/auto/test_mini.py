"""GLM-mini-ch, which comes with the package: real weights, without a connection."""

import re

from typer.testing import CliRunner

from flagai.auto_model.auto_loader import AutoLoader
from flagai.cli import app
from flagai.model.predictor.predictor import Predictor


def poem(*options: str) -> str:
    result = CliRunner().invoke(app, ["poem", "春江花月夜", *options])
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_the_same_seed_writes_the_same_well_formed_poem() -> None:
    first = poem("--seed", "1")
    assert re.fullmatch(r"(?:[一-鿿]{7}，[一-鿿]{7}。){2}", first)
    assert poem("--seed", "1") == first != poem("--seed", "2")
    assert re.fullmatch(r"(?:[一-鿿]{5}，[一-鿿]{5}。){4}", poem("--seed", "1", "--form", "五言律诗"))


def test_a_law_gets_its_kind_of_title() -> None:
    text = "为了加强对金银的管理，保证国家经济建设对金银的需要，特制定本条例。本条例所称金银，包括矿藏生产金银。"
    result = CliRunner().invoke(app, ["title", text])
    assert result.output.strip().endswith("条例")
    greedy, looked_up = (
        CliRunner().invoke(app, ["title", text, "--beams", "1", *more]).output
        for more in ((), ("--prompt-lookup-num-tokens", "7"))
    )
    assert looked_up == greedy
    refused = CliRunner().invoke(app, ["title", text, "--prompt-lookup-num-tokens", "7"])
    assert "--prompt-lookup-num-tokens needs one answer" in str(refused.exception)


def test_it_fills_blanks_of_poems() -> None:
    loader = AutoLoader("masklm", model_name="GLM-mini-ch")
    (filled,) = Predictor(loader.get_model(), loader.get_tokenizer()).fill_blanks("白日依山尽，黄河入海[MASK]。")
    assert filled.text.startswith("白日依山尽，黄河入海")
    assert filled.fillings[0]
