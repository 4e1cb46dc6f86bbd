"""Parameters that a checkpoint lacks are drawn alike on all ranks."""

from pathlib import Path

import pytest
import torch

from flagai.model.bert_model import BertForClsClassifier
from flagai.model.glm_model import GLMModel
from flagai.parallel import dtensor
from flagai.parallel.world import make_mesh
from tests.checkpoint.making import saved
from tests.parallel.ranks import on_ranks

GLM = {"vocab_size": 45, "hidden_size": 16, "num_attention_heads": 4}


def values(parameter: torch.Tensor) -> list[float]:
    found: list[float] = dtensor.full_tensor(parameter.detach()).flatten().tolist()
    return found


def draw(folder: Path, dimensions: dict[str, int]) -> list[list[float]]:
    mesh = make_mesh(**dimensions)
    torch.manual_seed(7 + mesh.get_rank())  # ranks that disagree
    model = GLMModel.from_pretrain(folder, mesh=mesh, only_download_config=True)
    head = BertForClsClassifier.from_pretrain(folder / "bert", mesh=mesh, class_num=3)
    return [values(parameter) for parameter in [*model.parameters(), *head.classifier.parameters()]]


@pytest.mark.parametrize("dimensions", [{"tp": 2}, {"dp": 2, "tp": 1}], ids=str)
def test_ranks_agree_on_new_parameters_and_a_seed_gives_one_model(tmp_path: Path, dimensions: dict[str, int]) -> None:
    saved(tmp_path, **GLM)
    saved(tmp_path / "bert", "BertModel", hidden_size=16, num_attention_heads=4)
    first, second = on_ranks(2, draw, tmp_path, dimensions)
    assert first == second
    torch.manual_seed(7)
    alone = GLMModel.from_pretrain(tmp_path, only_download_config=True)
    assert first[: len(list(alone.parameters()))] == [values(parameter) for parameter in alone.parameters()]
