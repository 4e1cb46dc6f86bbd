"""The page on parallel models runs as it is written on two processes (tests/test_docs.py runs it on one)."""

import json
import os
import socket
from pathlib import Path

from flagai.model.glm_model import GLMForSeq2Seq, GLMModel
from tests.parallel.ranks import on_ranks
from tests.test_docs import GLM, ROOT, blocks

PAGE = ROOT / "docs" / "parallel.md"


def run_page(folder: Path, port: int) -> None:
    os.chdir(folder)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    namespace: dict[str, object] = {}
    for number, block in enumerate(blocks(PAGE, "python")):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), namespace)


def test_the_page_runs_on_two_processes(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "GLM-large-ch"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(GLM))
    GLMModel.init_from_json(folder / "config.json").save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_ranks(2, run_page, tmp_path, port)
    before = GLMForSeq2Seq.from_pretrained(folder)
    for name in ("trained", "trained-with-accelerate"):
        after = GLMForSeq2Seq.from_pretrained(tmp_path / name)
        assert (after.model.norm.weight - before.model.norm.weight).abs().max() > 0
