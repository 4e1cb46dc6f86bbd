"""Options under transformers' and numpy's names and types; errors name what was given."""

import logging
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flagai.checks import check_integer, check_number
from flagai.errors import ConfigError, InputError
from flagai.generation import Decoding
from flagai.model.config_fields import field_specs
from flagai.model.device import read_dtype
from flagai.model.glm_backbone import separator_or_matrix
from flagai.model.glm_model import GLMModel
from flagai.model.predictor.options import Options
from flagai.pipelines import TextGenerationPipeline


def test_numpys_numbers_serve() -> None:
    decoding = Decoding(seed=np.int64(1), temperature=np.float32(0.5), top_k=np.int32(3), do_sample=True)
    assert (decoding.seed, decoding.temperature, decoding.top_k) == (1, 0.5, 3)
    assert [type(value) for value in (decoding.seed, decoding.temperature, decoding.top_k)] == [int, float, int]
    assert type(check_integer("n", np.int64(2))) is int
    for wrong in (True, np.bool_(True), "1"):
        with pytest.raises(InputError):
            check_number("n", wrong, 0)
    spec = field_specs(GLMModel.config_class)["hidden_size"]
    assert type(spec.parse(np.int64(64), "GLMConfig")) is int


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_length": 3}, r"'out_max_length' .max_new_tokens., of the answer, or 'input_max_length'"),
        ({"out_max_lenght": 3}, "Did you mean 'out_max_length'"),
        ({"truncation": 1}, "truncation is 1"),
    ],
)
def test_unknown_options_have_hints(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Options.read(10, given)


@pytest.mark.parametrize(
    ("name", "instead"), [("cache_dir", "download_path"), ("torch_dtype", "dtype"), ("load_in_8bit", 'quantize="int8"')]
)
def test_transformers_arguments_have_hints(name: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean '{instead}'"):
        GLMModel.config_class.from_dict({}, **{name: "x"})


def test_a_dtypes_short_name_has_a_hint() -> None:
    with pytest.raises(InputError, match="Did you mean 'bfloat16'"):
        read_dtype("bf16")


def test_one_beam_still_samples() -> None:
    pipeline = object.__new__(TextGenerationPipeline)
    pipeline.task, pipeline.model = "writing", SimpleNamespace()  # type: ignore[assignment]
    pipeline.predictor = SimpleNamespace(stream=lambda _, **options: options)  # type: ignore[assignment]
    assert "do_sample" in pipeline.stream("春", num_beams=1)
    assert "do_sample" not in pipeline.stream("春", num_beams=2)


@pytest.mark.parametrize(
    ("option", "value", "cure"),
    [
        ("temperature", 0.5, {"do_sample": True}),
        ("top_p", 0.9, {"do_sample": True}),
        ("top_k", 5, {"do_sample": True}),
        ("top_k", 5, {"penalty_alpha": 0.6}),
        ("length_penalty", 2.0, {"num_beams": 2}),
        ("length_penalty", 2.0, {"num_return_sequences": 1}),
        ("early_stopping", True, {"num_beams": 2}),
        ("diversity_penalty", 0.5, {"num_beams": 2, "num_beam_groups": 2}),
    ],
)
def test_an_option_without_effect_is_told(option: str, value: Any, cure: dict[str, Any], predictor: Any) -> None:
    run = predictor("GLM-large-ch", "GLMForSeq2Seq")
    with pytest.warns(UserWarning, match=rf"^{option}={value} has no effect without") as told:
        run.write("春", max_new_tokens=2, **{option: value})
    assert [warning.filename for warning in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.write("春", max_new_tokens=2, **{option: value}, **cure)


def test_defaults_of_options_are_not_told(predictor: Any) -> None:
    run = predictor("GLM-large-ch", "GLMForSeq2Seq")
    common = {"temperature": 1.0, "top_p": 1, "max_new_tokens": 2, "seed": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for top_k in (None, 0, 30):
            run.write("春", top_k=top_k, length_penalty=1.0, early_stopping=False, **common)
        run.predict_generate_beamsearch("春", beam_size=1, length_penalty=0.0, early_stopping="never", **common)
        run.predict_generate_randomsample("春", out_max_length=2)


def test_a_text_that_is_cut_is_told_or_refused(predictor: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = predictor("GLM-large-ch", "GLMForSeq2Seq")
    text = "春江花月夜" * 20
    with caplog.at_level(logging.WARNING, "flagai"):
        run.write([text, "春"], input_max_length=12, max_new_tokens=2)
    said = [record.getMessage()[:24] for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["1 of 2 texts do not fit:"]
    with pytest.raises(InputError, match=r"limit is 12 .*lower max_new_tokens"):
        run.write(text, input_max_length=12, max_new_tokens=2, truncation=False)
    caplog.clear()
    run.write("春", input_max_length=12, max_new_tokens=2, truncation=False)
    assert not caplog.records


def test_two_numbers_of_beams_are_refused(predictor: Any) -> None:
    run = predictor("GLM-large-ch", "GLMForSeq2Seq")
    with pytest.raises(InputError, match="beam_size is 4, and num_beams 2"):
        run.predict_generate_beamsearch("春", beam_size=4, num_beams=2, out_max_length=2)


def test_forced_words_are_named_as_given(predictor: Any) -> None:
    with pytest.raises(InputError, match=r"^force_words needs num_beams"):
        predictor("GLM-large-ch", "GLMForSeq2Seq").write("春", force_words=["春"], max_new_tokens=4)


def test_a_mask_of_tokens_is_told_how_to_mask_padding() -> None:
    with pytest.raises(InputError, match=r"To mask padding, give attention_mask\[:, None, None, :\]"):
        separator_or_matrix(torch.ones(2, 5), 2, 5, 0)
    separator_or_matrix(torch.ones(2, 5)[:, None, None, :], 2, 5, 0)
