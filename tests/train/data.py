"""Small data files and models to train on."""

import json
from pathlib import Path
from typing import Any

from tests import folders

PLACES = ("北京", "上海", "杭州", "西安")
ROWS: dict[str, list[dict[str, Any]]] = {
    "ner": [
        {"text": f"我在{PLACES[i % 4]}看书{i}", "tags": list("OO") + ["B-LOC", "I-LOC"] + ["O"] * (2 + len(str(i)))}
        for i in range(24)
    ],
    "classification": [{"text": ("很好看" if i % 2 else "太难看") + str(i), "label": i % 2} for i in range(24)],
    "semantic-matching": [
        {"text1": PLACES[i % 4], "text2": PLACES[i % 4] if i % 2 else "天气", "label": "same" if i % 2 else "other"}
        for i in range(24)
    ],
    "title-generation": [
        {"text": f"{PLACES[i % 4]}今天下雨，路上没有人。", "title": f"{PLACES[i % 4]}下雨"} for i in range(24)
    ],
    "poetry": [{"title": PLACES[i % 4], "form": "五言绝句", "text": "白日依山尽，黄河入海流。"} for i in range(24)],
    "masklm": [{"text": f"{PLACES[i % 4]}是一座很大的城市，那里的人很多。"} for i in range(24)],
}
ROWS["ner-crf"] = ROWS["ner-gp"] = ROWS["ner"]


def write(folder: Path, task: str) -> Path:
    """The data of a task as JSON lines."""
    path = folder / f"{task}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[task]), encoding="utf-8")
    return path


def home(folder: Path, *names: str) -> Path:
    """A folder of tiny backbones with real vocabularies."""
    classes = {"RoBERTa": "BertModel", "GLM": "GLMModel", "GPT2": "GPT2Model", "T5": "T5Model"}
    for name in names:
        folders.write(folder, name, classes[name.split("-")[0]])
    return folder
