"""Folders go from PEFT to flagai and back, and the outputs stay equal: the table of docs/adapters.md, row by row."""

from pathlib import Path

import peft
import pytest
import torch

from tests.adapters.peft_cases import MODELS, adapted, inputs, output, rows

ROWS = rows()


def test_the_page_has_rows_for_all_families() -> None:
    assert {row.model for row in ROWS.values()} >= {"bert", "bert-classes", "bert-tokens", "gpt2", "t5", "glm", "glm4"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROWS)
def test_an_adapter_computes_as_in_peft_and_goes_back(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    pair, bound = MODELS[row.model], row.bound
    arguments, real = inputs(pair)
    theirs = adapted(pair, tmp_path / "x", **row.options)
    wanted = output(theirs, arguments)[real]
    with theirs.disable_adapter():
        without = output(theirs, arguments)[real]
    assert (wanted - without).abs().max() > 1e-2  # the adapter does something
    ours = pair.ours.from_pretrained(tmp_path / "base")
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    assert ours.load_adapter(tmp_path / "x") == "x"

    def close(found: torch.Tensor, to: torch.Tensor) -> None:
        assert (found[real] - to).abs().max() < bound

    with ours.use_adapter("x"):
        close(output(ours, arguments), wanted)
    close(output(ours, arguments), without)
    ours.merge_adapter()
    close(output(ours, arguments), wanted)
    ours.unmerge_adapter()
    after = ours.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    ours.save_adapter(tmp_path / "back", "x")
    again = peft.PeftModel.from_pretrained(pair.theirs.from_pretrained(tmp_path / "base"), tmp_path / "back").eval()
    close(output(again, arguments), wanted)


@pytest.mark.filterwarnings("error:Found missing adapter keys")
@pytest.mark.filterwarnings("error:.*unexpected keys")
@pytest.mark.parametrize("model", ["bert-tokens", "gpt2", "t5-v1.1"])
def test_what_is_trained_here_is_read_by_peft(model: str, tmp_path: Path) -> None:
    """Queries and values of GPT-2 have matrices of their own here, and one pair in the file."""
    pair = MODELS[model]
    arguments, real = inputs(pair)
    pair.build().save_pretrained(tmp_path / "base")
    ours = pair.ours.from_pretrained(tmp_path / "base")
    ours.add_adapter("new", 2, alpha=3, targets=("q", "v", "down"))
    trained = [each for each in ours.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    for _ in range(2):  # the first step leaves the first matrices as they are
        ours.train()(**arguments)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    ours.eval().save_adapter(tmp_path / "mine", base="base")
    theirs = peft.PeftModel.from_pretrained(pair.theirs.from_pretrained(tmp_path / "base"), tmp_path / "mine").eval()
    found, wanted = output(theirs, arguments)[real], output(ours, arguments)[real]
    assert (wanted - output(pair.ours.from_pretrained(tmp_path / "base"), arguments)[real]).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
