"""What mkdocs does besides building pages: generated pages, tables from the code, two languages, links out of docs/."""

import copy
import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
os.environ["LC_ALL"] = "C.UTF-8"  # the help of the command line is in English
sys.path.insert(0, str(ROOT))  # mkdocs runs this file alone

from website import api, tables  # noqa: E402

# Pages of the repository outside of docs/ that the site has, too: page -> file.
_OUTSIDE = {
    "index.md": "README.md",
    "zh/index.md": "README_zh.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "benchmarks.md": "benchmarks/README.md",
    "security.md": "SECURITY.md",
    "kernels.md": "src/flagai/kernels/README.md",
}
_PICTURES = ("benchmarks/results/speed.svg",)
_LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_LINE_END = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])")
_CHINESE = "中文"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that do not lie in docs/."""
    for page, source in _OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for source in _PICTURES:
        files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
    for name in api.PAGES:
        files.append(File.generated(config, f"reference/api/{name}.md", content=api.page(name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in tables, and point links at the site's own pages."""
    uri = page.file.src_uri
    source = _OUTSIDE.get(uri, f"docs/{uri}")
    pages = {repository: own for own, repository in _OUTSIDE.items()}

    def linked(link: re.Match[str]) -> str:
        picture, text, target, part = link[1], link[2], link[3], link[4] or ""
        if not target or "://" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        own = pages.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(own) is None:  # a file of the repository: its path is all there is to say
            return f"{text} (`{path}`)"
        return f"{picture}[{_LINK.sub(linked, text)}]({posixpath.relpath(own, posixpath.dirname(uri))}{part})"

    text = _LINK.sub(linked, tables.filled(markdown))
    return _joined(text) if uri.startswith("zh/") else text


def _joined(markdown: str) -> str:
    """Chinese without the spaces that browsers make of the ends of its lines."""
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINE_END.sub("", part) for part in parts)


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Navigation) -> dict[str, Any]:
    """Show a page in its own language, with the pages of that language beside it and a link to the other."""
    chinese = page.file.src_uri.startswith("zh/")
    config.theme["language"] = "zh" if chinese else "en"
    (section,) = (each for each in nav.items if isinstance(each, Section) and each.title == _CHINESE)
    shown = copy.copy(nav)
    shown.items = section.children if chinese else [each for each in nav.items if each is not section]
    other = page.file.src_uri.removeprefix("zh/") if chinese else f"zh/{page.file.src_uri}"
    pages = {each.file.src_uri: each for each in nav.pages}
    found = pages.get(other) or pages["index.md" if chinese else "zh/index.md"]
    english, translated = (found, page) if chinese else (page, found)
    config.extra["alternate"] = [
        {"name": "English", "lang": "en", "link": english.url or "."},
        {"name": _CHINESE, "lang": "zh", "link": translated.url},
    ]
    return context | {"nav": shown}
