"""CI fails where a test is skipped for a reason that nobody listed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.skips import is_allowed

ROOT = Path(__file__).parent.parent
FILES = {
    "test_one.py": "import pytest\ndef test(): pytest.skip({reason!r})\n",
    "test_all.py": "import pytest\npytest.skip({reason!r}, allow_module_level=True)\n",
}


@pytest.mark.parametrize(("reason", "ci", "code"), [("needs CUDA", "1", 0), ("no time", "1", 1), ("no time", "", 0)])
def test_unlisted_skips_fail_in_ci(tmp_path: Path, reason: str, ci: str, code: int) -> None:
    for file, text in FILES.items():
        (tmp_path / file).write_text(text.format(reason=reason))
    # One that passes: a run without tests has an exit code of its own.
    (tmp_path / "test_good.py").write_text("def test(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-c", os.devnull, "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--continue-on-collection-errors", str(tmp_path)],
        env=os.environ | {"CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert bool(done.returncode) == bool(code), done.stdout
    assert ("1 failed, 1 passed, 1 error" in done.stdout) == bool(code)
    assert ("tests/skips.py" in done.stdout) == bool(code)


def test_what_is_missing_from_the_extra_is_no_reason() -> None:
    assert not is_allowed("needs triton")
    assert not is_allowed("could not import 'accelerate': No module named 'accelerate'")
    assert is_allowed("Skipped: needs two GPUs")
