"""``flagai title``, ``poem``, ``write`` and ``fill``."""

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flagai.cli.common import Json, predictor
from flagai.cli.entries import (
    BatchSize,
    Device,
    Entry,
    Field,
    Home,
    InFile,
    Model,
    OutFile,
    Quantize,
    Texts,
    answer,
    read_entries,
)
from flagai.cli.screen import show_filled
from flagai.errors import InputError

if TYPE_CHECKING:
    from flagai.model.predictor.blanks import Filled
    from flagai.model.predictor.predictor import Predictor

Length = Annotated[int, typer.Option("--max-length", help="How many tokens an answer may have.")]
Beams = Annotated[int, typer.Option("--beams", min=1, help="How many answers are followed at a time.")]
Sample = Annotated[bool, typer.Option("--sample/--search", help="Draw by chance, or search the most probable.")]
Seed = Annotated[int | None, typer.Option(help="The same number draws the same answer.")]
TopK = Annotated[int, typer.Option(min=0, help="With --sample: draw among so many tokens.")]
TopP = Annotated[float, typer.Option(min=0, max=1, help="With --sample: draw among tokens of this probability.")]
Temperature = Annotated[float, typer.Option(help="With --sample: above 1 is wilder.")]
Repetition = Annotated[float, typer.Option("--repetition-penalty", help="Above 1 repeats less.")]
LengthPenalty = Annotated[
    float, typer.Option("--length-penalty", help="Of beams: 0 compares sums of log-probabilities, 1 their means.")
]
Lookup = Annotated[
    int,
    typer.Option(
        "--prompt-lookup",
        min=0,
        help="With --beams 1 or --sample: guess so many tokens at a time from the text. The same answers in fewer "
        "steps, where they copy from it.",
    ),
]

_TITLE_LIMIT = 20


class Form(StrEnum):
    """The forms of poems that the models know."""

    five_quatrain = "五言绝句"
    seven_quatrain = "七言绝句"
    five_regulated = "五言律诗"
    seven_regulated = "七言律诗"


def title(
    texts: Texts = None,
    model: Model = "GLM-mini-ch",
    file: InFile = None,
    out: OutFile = None,
    field: Field = "text",
    beams: Beams = 4,
    sample: Sample = False,
    seed: Seed = None,
    top_k: TopK = 10,
    top_p: TopP = 1.0,
    temperature: Temperature = 1.0,
    repetition_penalty: Repetition = 1.0,
    length_penalty: LengthPenalty = 1.0,
    prompt_lookup: Lookup = 0,
    max_length: Length = 66,
    batch_size: BatchSize = 16,
    model_dir: Home = None,
    device: Device = None,
    quantize: Quantize = None,
    as_json: Json = False,
) -> None:
    """Write a title for each text."""
    entries = read_entries(texts, file, field)
    run = predictor("title-generation", model, model_dir, device, quantize)
    # The published GLM was trained on lower-cased text; the vocabularies of the others ignore case by themselves.
    lower = run.model.config.family == "glm"
    options = _strategy(sample, beams, seed, top_k, top_p, temperature, repetition_penalty)
    # Sums favour short titles: means gave GLM-mini-ch 0.358 ROUGE-L on held-out abstracts, and sums 0.347.
    options |= {} if sample else {"length_penalty": length_penalty}
    _write(
        entries,
        lambda entry: entry.text.lower() if lower else entry.text,
        run,
        options | {"prompt_lookup": prompt_lookup, "input_max_length": 512, "out_max_length": max_length},
        "title",
        batch_size,
        as_json,
        out,
    )


def poem(
    texts: Annotated[list[str] | None, typer.Argument(help="Titles of poems, of at most 20 characters.")] = None,
    form: Annotated[
        Form, typer.Option(help="Lines of five or seven characters; four lines or eight.")
    ] = Form.seven_quatrain,
    model: Model = "GLM-mini-ch",
    file: InFile = None,
    out: OutFile = None,
    field: Field = "title",
    beams: Beams = 4,
    sample: Sample = True,
    seed: Seed = None,
    top_k: TopK = 10,
    top_p: TopP = 0.9,
    temperature: Temperature = 1.0,
    repetition_penalty: Repetition = 1.2,
    max_length: Length = 80,
    batch_size: BatchSize = 16,
    model_dir: Home = None,
    device: Device = None,
    quantize: Quantize = None,
    as_json: Json = False,
) -> None:
    """Write a classical Chinese poem for each title."""
    entries = read_entries(texts, file, field)
    for entry in entries:
        if not 0 < len(entry.text) <= _TITLE_LIMIT or "：" in entry.text:
            raise InputError(
                f"{entry.text!r} is no title for a poem: it has 1 to {_TITLE_LIMIT} characters and no full-width colon."
            )
    run = predictor("poetry", model, model_dir, device, quantize)
    options = _strategy(sample, beams, seed, top_k, top_p, temperature, repetition_penalty)
    _write(
        entries,
        lambda entry: f"{entry.text}：{form.value}",
        run,
        options | {"out_max_length": max_length},
        "poem",
        batch_size,
        as_json,
        out,
    )


def write(
    texts: Texts = None,
    model: Model = "GPT2-base-ch",
    file: InFile = None,
    out: OutFile = None,
    field: Field = "text",
    beams: Beams = 1,
    sample: Sample = True,
    seed: Seed = None,
    top_k: TopK = 20,
    top_p: TopP = 0.8,
    temperature: Temperature = 1.0,
    repetition_penalty: Repetition = 1.5,
    prompt_lookup: Lookup = 0,
    max_length: Length = 100,
    batch_size: BatchSize = 16,
    model_dir: Home = None,
    device: Device = None,
    quantize: Quantize = None,
    as_json: Json = False,
) -> None:
    """Continue each text. A single text appears on a terminal while it is written."""
    entries = read_entries(texts, file, field)
    run = predictor("writing", model, model_dir, device, quantize)
    options = _strategy(sample, beams, seed, top_k, top_p, temperature, repetition_penalty)
    options |= {"prompt_lookup": prompt_lookup, "input_max_length": 512, "out_max_length": max_length}
    if len(entries) == 1 and sys.stdout.isatty() and not as_json and out is None:
        for piece in run.stream(entries[0].text, **options):
            typer.echo(piece, nl=False)
        typer.echo()
        return
    _write(entries, lambda entry: entry.text, run, options, "continuation", batch_size, as_json, out)


def fill(
    texts: Texts = None,
    model: Model = "GLM-large-ch",
    file: InFile = None,
    out: OutFile = None,
    field: Field = "text",
    n_best: Annotated[int, typer.Option("--n-best", "-n", min=1, help="How many fillings of each text.")] = 1,
    beams: Beams = 4,
    max_length: Length = 64,
    batch_size: BatchSize = 16,
    model_dir: Home = None,
    device: Device = None,
    quantize: Quantize = None,
    as_json: Json = False,
) -> None:
    """Fill the blanks of each text: [MASK], and for GLM [sMASK] (a sentence) and [gMASK] (a long end)."""
    entries = read_entries(texts, file, field)
    run = predictor("masklm", model, model_dir, device, quantize)

    def show(_: Entry, found: "list[Filled]") -> None:
        for filled in found:
            show_filled(filled.text, filled.spans, filled.score)

    answer(
        entries,
        lambda batch: run.fill_blanks(
            [entry.text for entry in batch], n_best=n_best, beam_size=beams, out_max_length=max_length
        ),
        as_fields=lambda found: {"filled": [asdict(filled) for filled in found]},
        show=show,
        batch_size=batch_size,
        as_json=as_json,
        out=out,
    )


def _strategy(
    sample: bool,
    beams: int,
    seed: int | None,
    top_k: int,
    top_p: float,
    temperature: float,
    repetition_penalty: float,
) -> dict[str, Any]:
    options: dict[str, Any] = {"repetition_penalty": repetition_penalty}
    if not sample:
        return options | {"num_beams": beams}
    options |= {"do_sample": True, "top_k": top_k, "top_p": top_p, "temperature": temperature}
    return options if seed is None else options | {"seed": seed}


def _write(
    entries: list[Entry],
    prompt: Any,
    run: "Predictor",
    options: dict[str, Any],
    name: str,
    batch_size: int,
    as_json: bool,
    out: Path | None,
) -> None:
    answer(
        entries,
        lambda batch: run.write([prompt(entry) for entry in batch], **options),
        as_fields=lambda written: {name: written},
        show=lambda _, written: typer.echo(written),
        batch_size=batch_size,
        as_json=as_json,
        out=out,
    )
