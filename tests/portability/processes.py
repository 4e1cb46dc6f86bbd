"""Processes on another operating system, and with the console's code page of another country."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(system: str, folder: Path, code: str, *arguments: str, code_page: str = "utf-8", text: bytes = b"") -> bytes:
    """Run a program, or for an empty one the command line, and return what it printed.

    Args:
        system: of ``fake_system``; "" is this one.
        folder: an empty folder for the module that changes each process, also those that it starts.
        code: the program.
        *arguments: its arguments.
        code_page: the encoding of its streams, as a console gives it.
        text: its standard input.
    """
    paths = [str(ROOT / "src"), str(ROOT)]
    if system:
        place = folder / "site"
        place.mkdir(exist_ok=True)
        program = f"from tests.portability.fake_system import install\ninstall({system!r})\n"
        (place / "sitecustomize.py").write_text(program, encoding="utf-8")
        paths.insert(0, str(place))
    (folder / "program.py").write_text(code, encoding="utf-8")  # a file: processes that are started anew read it again
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONIOENCODING": code_page,
        "PYTHONUTF8": "0",
        "FLAGAI_HOME": str(folder / "models"),
    }
    command = [sys.executable, str(folder / "program.py")] if code else [sys.executable, "-m", "flagai"]
    done = subprocess.run([*command, *arguments], env=environment, input=text, capture_output=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
    return done.stdout
