"""Ids, inputs and texts equal those of transformers for folders made at random, or the folder is refused by name."""

import logging
from importlib.metadata import version
from pathlib import Path

import pytest
import transformers

from flagai.data.prepare import bert
from flagai.data.tokenizer import Tokenizer
from flagai.data.tokenizer.text import is_chinese
from flagai.errors import FlagAIError
from tests.data.variants import Variant

TEXTS = 6
# These stop reading a text at the limit. So two texts beyond it are equally long, and an odd token is the second one's.
CUTS_PAIRS = version("tokenizers") not in ("0.23.1", "0.23.2")


def same(variant: Variant) -> str:
    """What happened to a folder: "equal", "refused" (ours), or "unreadable" (theirs and ours)."""
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(variant.folder)
    except Exception:  # noqa: BLE001  # transformers raises what its libraries do
        theirs = None
    try:
        ours = Tokenizer.from_folder(variant.folder)
    except FlagAIError:
        return "unreadable" if theirs is None else "refused"
    if theirs is None:
        return "unreadable"
    dense = ours.kind == "wordpiece" and is_chinese(ours.get_vocab())
    for _ in range(TEXTS):
        first, second = variant.text(), variant.text()
        ids = theirs(first, add_special_tokens=False)["input_ids"]
        assert ours.encode(first) == ids, first
        inputs = ours.encode_plus(first)
        assert {name: inputs[name] for name in theirs(first)} == dict(theirs(first)), first
        right = {name: values[0] for name, values in theirs([first], [second]).items()}
        assert {name: ours.encode_plus(first, second)[name] for name in right} == right, (first, second)
        if ours.frames[0].surrounds:
            length = variant.random.choice((None, 7, 20))
            cut = {} if length is None else {"truncation": True, "max_length": length}
            for texts in ([first], [first, second]) if CUTS_PAIRS or not cut else ([first],):
                right = {name: values[0] for name, values in theirs(*([text] for text in texts), **cut).items()}
                (row,) = bert.rows(ours, [texts[0] if len(texts) == 1 else texts], length)
                assert row.ids == right["input_ids"], (texts, length)
                assert row.segments == right.get("token_type_ids", [0] * len(row.ids)), (texts, length)
        for skip in (False, True):
            right, found = theirs.decode(ids, skip_special_tokens=skip), ours.decode(ids, skip_special_tokens=skip)
            if dense:
                right, found = ("".join(text.replace("##", "").split()) for text in (right, found))
            assert found == right, (first, ids, skip)
    return "equal"


def compare(seeds: range, tmp_path: Path) -> dict[str, int]:
    logging.disable(logging.WARNING)
    counts = {"equal": 0, "refused": 0, "unreadable": 0}
    try:
        for seed in seeds:
            (folder := tmp_path / str(seed)).mkdir()
            variant = Variant(seed, folder)
            try:
                counts[same(variant)] += 1
            except AssertionError as error:
                files = {path.name: path.read_text()[:400] for path in folder.iterdir() if "config" in path.name}
                raise AssertionError(f"seed {seed}, {variant.family}, {variant.layout}: {error}\n{files}") from error
    finally:
        logging.disable(logging.NOTSET)
    return counts


def test_folders_made_at_random(tmp_path) -> None:
    counts = compare(range(60), tmp_path)
    assert counts["equal"] >= 50, counts


@pytest.mark.slow
def test_many_folders_made_at_random(tmp_path) -> None:
    counts = compare(range(1000, 3000), tmp_path)
    assert counts["equal"] >= 1600, counts
