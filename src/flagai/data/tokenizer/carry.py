"""The files that give another folder, whatever it is called, the same tokenizer."""

import json

from flagai.data.tokenizer.description import Description
from flagai.data.tokenizer.saved import BESIDE, FAST_FILE, OPTIONS_FILE


def carried(description: Description) -> dict[str, bytes]:
    """The files of a tokenizer by their names, in which everything is written that its folder's name decided.

    Args:
        description: the tokenizer's.
    """
    names = dict.fromkeys((*description.files, FAST_FILE, *BESIDE))
    found = {name: path.read_bytes() for name in names if (path := description.folder / name).is_file()}
    if description.decided:
        options = {**description.saved.options.table, **description.decided}
        found[OPTIONS_FILE] = json.dumps(options, ensure_ascii=False, indent=2).encode()
    return found
