"""Prose has the field's words: words.toml lists those of the house's own, and what is said instead."""

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.sources import ROOT, SOURCE

LISTED = tomllib.loads((Path(__file__).parent / "words.toml").read_text(encoding="utf-8"))
INSTEAD = {pattern: word["use"] for word in LISTED["word"] for pattern in word["not"]}
PRIVATE = re.compile("|".join(rf"(?<![\w/.-])(?:{pattern})(?![\w-])" for pattern in INSTEAD), re.IGNORECASE)
KEPT = LISTED.get("kept", [])
MOST_KEPT = 19
# The subjects of commits since the list exists.
FIRST = "8b7bb5b78cb01e06d8edd3fd447d3627d6ca9079"
# Records of what was tried, as it was said then.
RECORDS = ("docs/engineering/", "docs/speed.md", "CHANGELOG.md")


def pages() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / "benchmarks").glob("*.md")
    yield from (page for page in (ROOT / "docs").rglob("*.md") if "zh" not in page.parts)


def prose_of_page(text: str) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def prose_of_module(text: str) -> Iterator[str]:
    """Comments, docstrings and messages, without the names in them."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"`[^`\n]*`", "", node.value)


def found_in(file: str, prose: str) -> list[str]:
    kept = {entry["text"] for entry in KEPT if entry["file"] == file}
    joined = " ".join(prose.split())
    return [match[0] for match in PRIVATE.finditer(joined) if match[0] not in kept]


def test_pages_have_the_words_of_the_field() -> None:
    files = {page.relative_to(ROOT).as_posix(): page for page in pages()}
    found = {
        name: words
        for name, page in files.items()
        if not name.startswith(RECORDS) and (words := found_in(name, prose_of_page(page.read_text(encoding="utf-8"))))
    }
    assert found == {}, "see tests/structure/words.toml"


def test_code_has_the_words_of_the_field() -> None:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if words := [
            word for text in prose_of_module(path.read_text(encoding="utf-8")) for word in found_in(name, text)
        ]:
            found[name] = words
    assert found == {}, "see tests/structure/words.toml"


def test_subjects_of_commits_have_the_words_of_the_field() -> None:
    command = ["git", "-C", str(ROOT), "log", "--format=%s", f"{FIRST}..HEAD"]
    subjects = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # none in an archive
    assert {subject: words for subject in subjects.splitlines() if (words := found_in("", subject))} == {}


def test_few_words_are_kept() -> None:
    assert len(KEPT) <= MOST_KEPT
    assert [entry for entry in KEPT if entry["text"] not in (ROOT / entry["file"]).read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    ("text", "word"),
    [("It is drawn anew.", "drawn anew"), ("'x' is no text.", "is no text"), ("Tokens a\nsecond", "Tokens a second")],
)
def test_a_private_word_is_found(text: str, word: str) -> None:
    assert found_in("page", text) == [word]
    assert found_in("page", "There is no text; pages per second; the model shallot.") == []
