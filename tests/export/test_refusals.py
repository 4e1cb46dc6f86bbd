"""What is not exported says why, and leaves nothing."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flagai.cli import app
from flagai.errors import ExportError, InputError
from flagai.export import export_onnx
from flagai.export.graphs import graph_of
from flagai.model.bert_model import BertModel
from flagai.model.quantization import quantize
from tests import chatglm_vocabularies, folders, tiny


class Drifting(BertModel):
    """A model whose outputs depend on more than its inputs."""

    calls = 0

    def forward(self, *inputs: Any, **others: Any) -> Any:
        """Encode, and add the number of calls."""
        self.calls += 1
        found = super().forward(*inputs, **others)
        return found | {"hidden_states": found["hidden_states"] + self.calls}


def test_a_graph_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    model = Drifting(folders.model("RoBERTa-base-ch", "BertModel").config)
    tokenizer = folders.tokenizer(tmp_path / "models", "RoBERTa-base-ch")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_text("another one")
    with pytest.raises(ExportError, match=r"last_hidden_state differs from torch's by .* so nothing is written"):
        export_onnx(model, tokenizer, tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    assert (tmp_path / "out" / "model.onnx").read_text() == "another one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "out"]


def test_classes_without_a_graph_are_named() -> None:
    for name in ("ChatGLMModel", "ChatGLM2Model", "GLMForSingleTokenCloze"):
        with pytest.raises(ExportError, match=f"A {name} cannot be exported. These can: BertModel"):
            graph_of(tiny.build(name), Path(), None)


def test_quantized_weights_are_named() -> None:
    model = tiny.build("GPT2Model", n_embd=64, n_inner=64, n_head=2)
    quantize(model, "int8")
    with pytest.raises(ExportError, match=r"quantized weights \(int8\)"):
        graph_of(model, Path(), None)


def test_shared_models_are_named() -> None:
    model = tiny.build("GPT2Model")
    model.sharding = object()
    with pytest.raises(ExportError, match=r"shared between processes. Load it without mesh="):
        graph_of(model, Path(), None)


def test_adapters_are_merged_first() -> None:
    model = tiny.build("GPT2Model")
    model.add_adapter("law", rank=2)
    with pytest.raises(ExportError, match=r"adapters beside its weights \(law\). Merge one: model.merge_adapter"):
        graph_of(model, Path(), None)
    model.merge_adapter("law")
    assert graph_of(model, Path(), None).model is model


def test_parts_without_a_graph_are_named() -> None:
    with pytest.raises(ExportError, match="Of a T5Model only the encoder is exported"):
        graph_of(tiny.build("T5Model"), Path(), None)
    with pytest.raises(ExportError, match="A GPT2Model has no encoder"):
        graph_of(tiny.build("GPT2Model"), Path(), "encoder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype='bfloat16' cannot be exported"),
        ({"opset": 17}, "opset is 17; expected an integer, at least 18"),
        ({"overwrite": 1}, "overwrite is 1; expected True or False"),
        ({"task": "ner"}, "task is 'ner'; expected None, 'encoder' or 'embedding'"),
    ],
)
def test_arguments_are_checked_before_work(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    tokenizer = folders.tokenizer(tmp_path, "RoBERTa-base-ch")
    with pytest.raises(InputError, match=message):
        export_onnx(folders.model("RoBERTa-base-ch", "BertModel"), tokenizer, tmp_path / "out", **options)
    with pytest.raises(InputError, match=r"is not empty\. Name another folder"):
        export_onnx(folders.model("RoBERTa-base-ch", "BertModel"), tokenizer, tmp_path)


def command(*words: str) -> str:
    """The error of the command."""
    result = CliRunner().invoke(app, ["export", "onnx", *words])
    assert isinstance(result.exception, ExportError), result.output
    return str(result.exception)


def test_the_command_refuses_before_it_loads(tmp_path: Path) -> None:
    chatglm = chatglm_vocabularies.put(tmp_path, "chatglm3").rename(tmp_path / "ChatGLM3-6B")
    tiny.build("ChatGLM2Model", padded_vocab_size=512).save_config(chatglm)
    said = command("ChatGLM3-6B", "--task", "lm", "--out", "x", "--model-dir", str(tmp_path))
    assert "ChatGLM3-6B is a chatglm2 model, which cannot be exported. These can: bert, gpt2, glm, t5." in said


@pytest.mark.filterwarnings("ignore")
def test_the_command_refuses_a_head_that_nobody_trained(tmp_path: Path) -> None:
    folders.write(tmp_path, "RoBERTa-base-ch", "BertModel")
    said = command("RoBERTa-base-ch", "--task", "semantic-matching", "--out", "x", "--model-dir", str(tmp_path))
    assert "The head of this BertForClsClassifier is randomly initialized" in said


def test_the_command_refuses_to_classify_by_labels(tmp_path: Path) -> None:
    folders.write(tmp_path, "GPT2-base-ch", "GPT2Model")
    said = command("GPT2-base-ch", "--task", "classification", "--out", "x", "--model-dir", str(tmp_path))
    assert "GPT2-base-ch classifies as a language model, by scoring labels" in said
