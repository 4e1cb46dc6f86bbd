"""Checks on two GPUs, one process each; torchrun starts this file (tests/gpu/test_two.py)."""

import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from flagai.generation import Decoding, Prompt, generate
from flagai.generation.replay.steps import captured_steps
from flagai.model.glm_model import GLMForSeq2Seq, GLMModel
from flagai.parallel import dtensor
from flagai.parallel.fsdp import FullyShard
from flagai.parallel.world import make_mesh
from tests import tiny
from tests.parallel.comparing import SHARED

# Large enough for the kernels of a step and for swaps in several pieces.
DROPOUT = {f"{kind}_dropout_prob": 0.0 for kind in ("embedding", "attention", "output")}
GLM = {"num_layers": 3, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": 5003, "max_sequence_length": 256}
TEXT = Prompt(tuple(range(20, 45)))
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 5, "n_best": 2, "top_k": 50},
    "beams": {"num_beams": 4, "n_best": 2},
}


def shared(make: Any) -> Path:
    """A folder that the first rank fills."""
    place = [tempfile.mkdtemp() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(place)
    folder = Path(str(place[0]))
    if distributed.get_rank() == 0:
        make(folder)
    distributed.barrier()
    return folder


def same_parts(model: Any, alone: Any) -> None:
    expected = dict(alone.named_parameters())
    for name, parameter in model.named_parameters():
        part = dtensor.local(parameter.detach())
        assert part.is_cuda
        assert torch.equal(part.cpu(), expected[name].detach()[dtensor.window(parameter) or ...]), name


def check_loading() -> None:
    """Rows are swapped, replicas gather: every part is what one process reads."""
    for name in ("BertForMaskLM", "GLMModel", "GPT2Model", "T5Model"):
        kind = tiny.CLASSES[name]
        for layout in ("flagai", "huggingface"):
            model = tiny.build(name, **SHARED[kind.config_class.family])
            folder = shared(lambda path, model=model, layout=layout: model.save_pretrained(path, layout=layout))
            for dtype in (torch.float32, torch.bfloat16):
                alone = kind.from_pretrained(folder, dtype=dtype)
                for sizes in ({"tp": 2}, {"dp": 2, "tp": 1}):
                    same_parts(kind.from_pretrained(folder, dtype=dtype, mesh=make_mesh("cuda", **sizes)), alone)


def glm() -> Path:
    torch.manual_seed(0)
    model = GLMModel.on_meta(GLMModel.config_class.from_dict({"model_type": "glm", **GLM, **DROPOUT}))
    return shared(model.initialized_on(torch.device("cpu")).save_pretrained)


def answers(model: Any, graphs: bool) -> dict[str, list[tuple[int, ...]]]:
    found = {}
    for name, options in SEARCHES.items():
        decoding = Decoding(max_new_tokens=24, cuda_graphs=graphs, **options)
        found[name] = [answer.ids for answer in generate(model, [TEXT, TEXT], decoding)[1]]
    return found


def check_generation() -> None:
    """In float32 two GPUs write what one writes; in half precision, recorded or not, ranks write the same."""
    folder, mesh = glm(), make_mesh("cuda", tp=2)
    alone = GLMModel.from_pretrained(folder, device=torch.device("cuda", distributed.get_rank()))
    model = GLMModel.from_pretrained(folder, mesh=mesh)
    wanted = answers(alone, False)
    for _ in range(2):
        assert answers(model, True) == wanted
    assert captured_steps(model)
    half = GLMModel.from_pretrained(folder, mesh=mesh, dtype=torch.bfloat16)
    for graphs in (True, False):
        mine = answers(half, graphs)
        theirs: list[Any] = [None, None]
        distributed.all_gather_object(theirs, mine)
        assert theirs[0] == theirs[1], graphs
    (steps,) = captured_steps(half)
    assert all("decode.select.tensor_parallel_blocks" in forward.kernels for forward in steps.forwards.values())


def check_training() -> None:
    """A step of FSDP2 changes parameters as one process does."""
    folder = glm()
    ids = torch.arange(20, 40, device="cuda")[None]
    losses = []
    for options in ({"device": "cuda"}, {"mesh": make_mesh("cuda", dp=2, tp=1), "fsdp": FullyShard()}):
        model = GLMForSeq2Seq.from_pretrained(folder, **options).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            loss = model(ids, attention_mask=torch.tensor([4], device="cuda"), target_ids=ids)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss))
    assert abs(losses[0] - losses[1]) < 1e-3, losses


CHECKS = (check_loading, check_generation, check_training)

if __name__ == "__main__":
    make_mesh("cuda")  # connects
    failed = False
    for check in CHECKS:
        try:
            check()
            print(f"rank {distributed.get_rank()}: {check.__name__} is good", flush=True)  # noqa: T201
        except Exception:  # noqa: BLE001 - the next one is worth knowing too, if the ranks still meet
            failed = True
            traceback.print_exc()
    sys.exit(failed)
