"""Each row of the table of docs/export.md: the model is exported, ONNX Runtime equals torch at all sizes."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from flagai.auto_model.auto_loader import AutoLoader
from flagai.export.graphs import GRAPHS
from flagai.export.loading import export_task
from flagai.export.ports import DYNAMIC
from flagai.generation import Decoding, Prompt, generate
from flagai.model.predictor.encoder_heads import class_logits
from flagai.model.predictor.predictor import Predictor
from tests import folders

PAGE = Path(__file__).parent.parent.parent / "docs" / "export.md"
TEXT = "今天天气很好。"  # of the READMEs
NAMES = {"Bert": "RoBERTa-base-ch", "GLM": "GLM-large-ch", "GPT2": "GPT2-base-ch", "T5": "T5-base-en"}
# Rows that the default suite runs: the others differ from one of them in their head alone.
QUICK = ("ner-crf BertForSequenceLabelingCRF", "poetry GLMForSeq2Seq")


@dataclass(frozen=True)
class Row:
    task: str
    class_name: str
    inputs: dict[str, list[str]]  # the axes by the names
    outputs: dict[str, list[str]]


def ports(cell: str) -> dict[str, list[str]]:
    return {name: axes.split(", ") for name, axes in re.findall(r"`([\w.*]+)` \[([^]]*)\]", cell)}


def rows() -> list[Any]:
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = line.split("|")
        if len(cells) == 6 and "[" in line:
            (class_name,) = re.findall(r"`(\w+)`", cells[2])
            for task in re.findall(r"`([\w-]+)`", cells[1]):
                row = Row(task, class_name, ports(cells[3]), ports(cells[4]))
                name = f"{task} {class_name}"
                found.append(pytest.param(row, id=name, marks=[] if name in QUICK else pytest.mark.slow))
    return found


ROWS = rows()


def write(home: Path, class_name: str, **changes: Any) -> str:
    """A tiny model of a class with a vocabulary, in a model directory; its name."""
    family = next(family for family in NAMES if class_name.startswith(family))
    folders.write(home, NAMES[family], class_name, **changes)
    return NAMES[family]


def test_the_table_has_every_class_and_the_quick_rows() -> None:
    assert {row.values[0].class_name for row in ROWS} == {*GRAPHS, "BertForEmbedding"}
    assert {row.id for row in ROWS} > set(QUICK)


@pytest.mark.parametrize("row", ROWS)
def test_onnx_runtime_equals_torch(row: Row, tmp_path: Path) -> None:
    name = write(tmp_path, row.class_name)
    written = export_task(name, tmp_path / "out", row.task, model_dir=tmp_path)
    assert written.model_class == row.class_name
    assert written.difference < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert shapes(session.get_inputs(), row.inputs) == row.inputs
    assert shapes(session.get_outputs(), row.outputs) == row.outputs
    check_the_example(row, tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_float16_and_weights_beside_the_graph(opset: int, tmp_path: Path) -> None:
    name = write(tmp_path, "GPT2Model")
    options = {"dtype": "float16", "external_data": True, "opset": opset}
    written = export_task(name, tmp_path / "out", "writing", model_dir=tmp_path, **options)
    assert {"model.onnx", "model.onnx.data"} < set(written.files)
    assert 0 < written.difference < 2e-2
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert {port.type for port in session.get_outputs()} == {"tensor(float16)"}


def check_the_example(row: Row, home: Path, name: str) -> None:
    """The README's Python, run in the exported folder, gives what the model gives."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (home / "out" / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    shown = {"__name__": "readme"}
    exec(compile(code.replace('folder = "."', f"folder = {str(home / 'out')!r}"), "README.md", "exec"), shown)
    loader = AutoLoader("lm" if row.task == "encoder" else row.task, name, home, device="cpu")
    model, tokenizer = loader.get_model(), loader.get_tokenizer()
    if "written" in shown:
        marks = [shown["prompt"].index(tokenizer.get_command_id("mask"))] if row.class_name == "GLMModel" else []
        end = tokenizer.token_end_id if row.class_name == "GPT2Model" else tokenizer.get_command_id("eop")
        start = tokenizer.get_command_id("sop") if marks else None
        decoding = Decoding(max_new_tokens=20, stop_token_ids=(end,), start_id=start)
        assert shown["written"] == list(generate(model, [Prompt(shown["prompt"], marks)], decoding)[0][0].ids)
        return
    with torch.inference_mode():
        wanted = expected(row, Predictor(model, tokenizer), shown["given"])
    assert abs(shown["outputs"][0] - wanted.numpy()).max() < 1e-4
    if row.class_name == "BertForSequenceLabelingCRF":
        emissions = torch.from_numpy(shown["outputs"][0])
        path = model.crf.decode(emissions, torch.ones(emissions.shape[:2], dtype=torch.bool))
        assert shown["viterbi"](emissions[0].numpy(), shown["outputs"][1]) == path[0].tolist()


def expected(row: Row, predictor: Predictor, given: dict[str, Any]) -> torch.Tensor:
    """The first output by the library's own way to it."""
    ids = torch.from_numpy(given["input_ids"])
    if row.task == "embedding":
        return predictor.predict_embedding([TEXT])
    if row.outputs.get("logits") == ["batch", "classes"]:
        return class_logits(predictor.model, predictor.tokenizer, [TEXT], None)
    if row.class_name == "T5Model":
        return predictor.model.encode(ids)
    found: torch.Tensor = predictor.model(ids)["logits"]
    return found


def shapes(found: Any, page: dict[str, list[str]]) -> dict[str, list[str]]:
    """The axes of a session's ports, sizes that stay by the names that the page gives them."""
    result = {}
    for port in found:
        name = re.sub(r"\.\d+\.(key|value)$", ".*", port.name)
        given = ["total" if size == "sequence + past" else size for size in port.shape]
        axes = page.get(name, [])
        assert [axis in DYNAMIC for axis in axes] == [isinstance(size, str) for size in given], name
        result[name] = [size if isinstance(size, str) else axis for axis, size in zip(axes, given, strict=True)]
    return result
