"""The site builds without a warning, loads nothing from other hosts, and has what the code says."""

import dataclasses
import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flagai import errors, settings
from flagai.catalog.catalog import list_models
from flagai.cli import COMMANDS
from flagai.generation.options import Decoding
from flagai.model.config_fields import field_specs
from flagai.model.glm_config import GLMConfig
from website import api, tables

ROOT = Path(__file__).parents[2]
# What a browser loads by itself: not the links of a text, which a reader follows.
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?(?:src|data)=["']?((?:https?:)?//[^"'\s>]*)|
    <link\b[^>]*?href=["']?((?:https?:)?//[^"'\s>]*)|url\(["']?((?:https?:)?//[^"')]*)|@import\s+["']((?:https?:)?//[^"']*)""",
    re.VERBOSE,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a broken link or anchor, and a page that the navigation lacks, end the build.

    In a process of its own: other tests register families, which the tables would show.
    """
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8")))


def loaded_from_elsewhere(text: str) -> list[str]:
    return [address for found in _LOADED.findall(text) for address in found if address]


def test_no_page_loads_from_another_host(site: Path) -> None:
    pages = [path for path in site.rglob("*") if path.suffix in (".html", ".css", ".svg")]
    assert len(pages) > 50
    assert {str(path): found for path in pages if (found := loaded_from_elsewhere(path.read_text("utf-8")))} == {}
    # The theme's script would fetch mermaid's for such blocks.
    assert not [path for path in pages if 'class="mermaid"' in path.read_text("utf-8")]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://a.b/c.js"></script>',
        "<img alt=x src=//a.b/c.png>",
        '<link rel="stylesheet" href="http://a.b/c.css">',
        "a { background: url(https://a.b/c.png) }",
        '@import "https://a.b/c.css"',
    ],
)
def test_every_way_to_load_is_seen(text: str) -> None:
    assert len(loaded_from_elsewhere(text)) == 1
    assert loaded_from_elsewhere('<a href="https://a.b">c</a> <img src="../c.png">') == []


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("reference/cli", [f"flagai {name}" for name in COMMANDS]),
        ("environment", [each.name for each in settings.VARIABLES]),
        ("configuration", [spec.name for spec in field_specs(GLMConfig).values()]),
        ("generation", [field.name for field in dataclasses.fields(Decoding)]),
        ("catalog", [f"{card.name}" for card in list_models()] + [card.available_from for card in list_models()]),
        ("reference/errors", [name for name in vars(errors) if name.endswith("Error")]),
    ],
)
def test_pages_of_the_reference_are_complete(site: Path, page: str, names: list[str]) -> None:
    text = text_of(site / page / "index.html")
    assert [name for name in names if name not in text] == []


def test_every_table_has_a_place() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    assert set(re.findall(r"<!-- table: (\w+) -->$", pages, re.MULTILINE)) == tables.TABLES.keys()


def test_the_interface_has_pages_with_docstrings(site: Path) -> None:
    for name in api.PAGES:
        assert "doc doc-object" in (site / "reference" / "api" / name / "index.html").read_text("utf-8"), name


def test_pages_speak_their_language_and_link_to_the_other(site: Path) -> None:
    english = (site / "serve" / "index.html").read_text(encoding="utf-8")
    chinese = (site / "zh" / "serve" / "index.html").read_text(encoding="utf-8")
    assert '<html lang="en"' in english
    assert 'href="../zh/serve/" hreflang="zh"' in english
    assert '<html lang="zh"' in chinese
    assert 'href="../../serve/" hreflang="en"' in chinese
    assert "Tutorials" not in text_of(site / "zh" / "serve" / "index.html")
