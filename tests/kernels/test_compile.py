"""Every kernel compiles for an H100, here without one."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(find_spec("triton") is None or sys.platform != "linux", reason="needs triton")
@pytest.mark.parametrize("extent", ["--few", pytest.param("--all", marks=pytest.mark.slow)])
def test_every_kernel_compiles(tmp_path: Path, extent: str) -> None:
    # A process of its own, where kernels are not interpreted.
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_for_h100.py")
    done = subprocess.run(
        [sys.executable, str(script), extent],
        env=variables | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if not line.startswith("good"))
    assert done.stdout.count("good") > 20
