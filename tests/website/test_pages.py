"""Tutorials and how-tos run from the first line to the last: their Python, and their commands of flagai, in order."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagai.cli import app
from tests.test_docs import CHINESE, ROOT, models, workplace  # noqa: F401  # fixtures

DOCS = ROOT / "docs"
# The code of serve.md runs against a server: tests/serve/test_docs.py.
PAGES = [page for kind in ("tutorials", "how-to") for page in sorted((DOCS / kind).glob("*.md"))]
_BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(page: Path) -> int:
    """Run a page; return how many commands and blocks of Python it had."""
    namespace: dict[str, object] = {}
    count = 0
    for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(text, f"{page.name}: {text[:40]}", "exec"), namespace)
            count += 1
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("flagai "):
                result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
                assert result.exit_code == 0, f"{line}: {result.output} {result.exception}"
                count += 1
    return count


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "serve.md"], ids=lambda page: page.name)
@pytest.mark.usefixtures("workplace")
def test_a_page_runs_in_order(page: Path) -> None:
    assert run(page)


def test_every_page_is_there_in_chinese() -> None:
    assert {page.relative_to(DOCS) for page in PAGES} == {
        chinese.relative_to(DOCS / "zh") for _, chinese in CHINESE if chinese.parent.name in ("tutorials", "how-to")
    }
