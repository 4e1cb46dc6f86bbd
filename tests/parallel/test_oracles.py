"""Every reference case, loaded from its own format by two ranks that share the model: the outputs agree."""

from typing import Any

import pytest
import torch

from flagai.parallel.world import make_mesh
from tests.oracle import ROOT, scenarios
from tests.parallel.ranks import on_ranks
from tests.parity import test_oracles as parity

# Its three heads cannot be shared.
ODD = "bert_native_model"


def check_references() -> int:
    mesh = make_mesh(tp=2)
    loaded: dict[Any, Any] = {}

    def load(name: str, model_class: str, overrides: tuple[tuple[str, Any], ...]) -> Any:
        key = (name, model_class, overrides)
        if key not in loaded:
            loaded[key] = parity.CLASSES[model_class].from_pretrain(
                ROOT, name, dtype=torch.float32, mesh=mesh, **dict(overrides)
            )
        return loaded[key]

    parity.load = load  # type: ignore[assignment]  # in this process only
    checked = [parameter.values[0] for parameter in scenarios() if parameter.values[0].case != ODD]
    for scenario in checked:
        parity.test_equals_the_reference(scenario)
    parity.test_the_best_labels_equal_the_reference()
    return len({scenario.case for scenario in checked})


@pytest.mark.slow  # every class on two ranks: test_equal; old files on ranks: test_loading
def test_two_ranks_equal_the_references() -> None:
    assert on_ranks(2, check_references) == [len(list(ROOT.iterdir())) - 1] * 2
