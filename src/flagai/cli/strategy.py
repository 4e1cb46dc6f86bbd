"""How answers are written: options of search and of sampling, checked together before a model is loaded."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import typer

from flagai.errors import InputError

_SAMPLING = ("seed", "top_k", "top_p", "temperature")
_SEARCHING = ("beams", "length_penalty")
_BOTH = ("repetition_penalty", "num_return_sequences", "prompt_lookup_num_tokens")


def given(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Those of some options that stand on the command line, as they are typed."""
    typed = []
    for name in names:
        source = context.get_parameter_source(name) if name in context.params else None
        if source is not None and source.name == "COMMANDLINE":
            typed.append("--" + name.replace("_", "-"))
    return typed


def read_strategy(context: typer.Context) -> dict[str, Any]:
    """The options of ``Predictor.write`` that a command was given.

    Args:
        context: the command's, with its parameters.

    Raises:
        InputError: an option would change nothing, or has an impossible value.
    """
    from flagai.generation import Decoding
    from flagai.model.predictor.options import Options

    values = context.params
    sample = values["sample"]
    ignored = given(context, _SEARCHING if sample else _SAMPLING)
    if ignored:
        mode, other = ("--sample", "--search") if sample else ("--search", "--sample")
        raise InputError(f"{', '.join(ignored)} has no meaning with {mode}. Add {other}, or leave it out.")
    options = {name: values[name] for name in _BOTH if name in values}
    if sample:
        options |= {name: values[name] for name in _SAMPLING if values[name] is not None} | {"do_sample": True}
    else:
        options |= {"num_beams": values["beams"], "length_penalty": values.get("length_penalty", 0.0)}
    asked = Options.read(values["max_length"], options)
    Decoding(max_new_tokens=asked.max_new_tokens, **asked.decoding)
    return options | {"out_max_length": values["max_length"]}


def seeds_of(texts: Sequence[str], options: dict[str, Any]) -> list[int] | None:
    """One seed per text: a text that comes again continues with the next seeds, so that its answers differ.

    Args:
        texts: all texts of a call.
        options: from :func:`read_strategy`.

    Returns:
        The seeds; None if none was given.
    """
    if "seed" not in options:
        return None
    times: Counter[str] = Counter()
    seeds = []
    for text in texts:
        seeds.append(options["seed"] + times[text] * options["num_return_sequences"])
        times[text] += 1
    return seeds
