"""``flagai title``, ``poem``, ``write`` and ``fill``."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flagai.cli.common import Json, predictor, shipped_by_default
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
from flagai.cli.output import check_target
from flagai.cli.screen import show_filled
from flagai.cli.strategy import given, read_strategy, seeds_of
from flagai.errors import InputError

if TYPE_CHECKING:
    from flagai.model.predictor.predictor import Predictor
    from flagai.model.predictor.results import Filled, Written

Length = Annotated[int, typer.Option("--max-length", help="How many tokens an answer may have.")]
Beams = Annotated[int, typer.Option("--beams", min=1, help="With --search: how many answers are followed at a time.")]
Sample = Annotated[bool, typer.Option("--sample/--search", help="Draw by chance, or search the most probable.")]
Seed = Annotated[
    int | None,
    typer.Option(help="With --sample: the same number draws the same answers; an equal text has the next one."),
]
TopK = Annotated[int, typer.Option(min=0, help="With --sample: draw among so many tokens.")]
TopP = Annotated[float, typer.Option(min=0, max=1, help="With --sample: draw among tokens of this probability.")]
Temperature = Annotated[float, typer.Option(help="With --sample: above 1 is wilder.")]
Repetition = Annotated[float, typer.Option("--repetition-penalty", help="Above 1 repeats less.")]
LengthPenalty = Annotated[
    float,
    typer.Option("--length-penalty", help="With --search: 0 compares sums of log-probabilities, 1 their means."),
]
Lookup = Annotated[
    int,
    typer.Option(
        "--prompt-lookup-num-tokens",
        min=0,
        help="With --sample, or --search --beams 1: guess so many tokens at a time from the text. The same answers in "
        "fewer steps, where they copy from it.",
    ),
]
Best = Annotated[int, typer.Option("--num-return-sequences", "-n", min=1, help="How many answers to each text.")]

_TITLE_LIMIT = 20


class Form(StrEnum):
    """The forms of poems that the models know."""

    five_quatrain = "五言绝句"
    seven_quatrain = "七言绝句"
    five_regulated = "五言律诗"
    seven_regulated = "七言律诗"


def title(
    context: typer.Context,
    texts: Texts = None,
    model: Model = "GLM-mini-ch",
    file: InFile = None,
    out: OutFile = None,
    field: Field = "text",
    num_return_sequences: Best = 1,
    beams: Beams = 4,
    sample: Sample = False,
    seed: Seed = None,
    top_k: TopK = 10,
    top_p: TopP = 1.0,
    temperature: Temperature = 1.0,
    repetition_penalty: Repetition = 1.0,
    # Sums favour short titles: means gave GLM-mini-ch 0.358 ROUGE-L on held-out abstracts, and sums 0.347.
    length_penalty: LengthPenalty = 1.0,
    prompt_lookup_num_tokens: Lookup = 0,
    max_length: Length = 66,
    batch_size: BatchSize = 16,
    model_dir: Home = None,
    device: Device = None,
    quantize: Quantize = None,
    as_json: Json = False,
) -> None:
    """Write a title for each text."""
    check_target(out)
    options = read_strategy(context) | {"input_max_length": 512}
    entries = read_entries(texts, file, field)
    run = predictor("title-generation", model, model_dir, device, quantize)
    # The published GLM was trained on lower-cased text; the vocabularies of the others ignore case by themselves.
    lower = run.model.config.family == "glm"
    prompts = [entry.text.lower() if lower else entry.text for entry in entries]
    _write(entries, prompts, run, options, "title", batch_size=batch_size, as_json=as_json, out=out)


def poem(
    context: typer.Context,
    texts: Annotated[list[str] | None, typer.Argument(help="Titles of poems, of at most 20 characters.")] = None,
    form: Annotated[
        Form, typer.Option(help="Lines of five or seven characters; four lines or eight.")
    ] = Form.seven_quatrain,
    model: Model = "GLM-mini-ch",
    file: InFile = None,
    out: OutFile = None,
    field: Field = "title",
    num_return_sequences: Best = 1,
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
    check_target(out)
    options = read_strategy(context)
    entries = read_entries(texts, file, field)
    for entry in entries:
        if not 0 < len(entry.text.strip()) <= len(entry.text) <= _TITLE_LIMIT or "：" in entry.text:
            raise InputError(
                f"{entry.place}: {entry.text[:60]!r} is no title for a poem: expected 1 to {_TITLE_LIMIT} characters "
                "and no full-width colon."
            )
    run = predictor("poetry", model, model_dir, device, quantize)
    prompts = [f"{entry.text}：{form.value}" for entry in entries]
    _write(entries, prompts, run, options, "poem", batch_size=batch_size, as_json=as_json, out=out)


def write(
    context: typer.Context,
    texts: Texts = None,
    model: Model = "GPT2-base-ch",
    file: InFile = None,
    out: OutFile = None,
    field: Field = "text",
    num_return_sequences: Best = 1,
    beams: Beams = 1,
    sample: Sample = True,
    seed: Seed = None,
    top_k: TopK = 20,
    top_p: TopP = 0.8,
    temperature: Temperature = 1.0,
    repetition_penalty: Repetition = 1.5,
    prompt_lookup_num_tokens: Lookup = 0,
    max_length: Length = 100,
    batch_size: BatchSize = 16,
    model_dir: Home = None,
    device: Device = None,
    quantize: Quantize = None,
    as_json: Json = False,
) -> None:
    """Continue each text. A single text appears on a terminal while it is written."""
    check_target(out)
    options = read_strategy(context) | {"input_max_length": 512}
    entries = read_entries(texts, file, field)
    run = predictor("writing", model, model_dir, device, quantize, shipped_by_default(context))
    if len(entries) == 1 and num_return_sequences == 1 and sys.stdout.isatty() and not as_json and out is None:
        for piece in run.stream(entries[0].text, **options):
            typer.echo(piece, nl=False)
        typer.echo()
        return
    prompts = [entry.text for entry in entries]
    _write(entries, prompts, run, options, "continuation", batch_size=batch_size, as_json=as_json, out=out)


def fill(
    context: typer.Context,
    texts: Texts = None,
    model: Model = "GLM-large-ch",
    file: InFile = None,
    out: OutFile = None,
    field: Field = "text",
    num_return_sequences: Best = 1,
    beams: Beams = 4,
    max_length: Length = 64,
    batch_size: BatchSize = 16,
    model_dir: Home = None,
    device: Device = None,
    quantize: Quantize = None,
    as_json: Json = False,
) -> None:
    """Fill the blanks of each text: [MASK], and for GLM [sMASK] (a sentence) and [gMASK] (a long end)."""
    from flagai.auto_model.auto_loader import family_at
    from flagai.model.predictor.blanks import has_blank

    check_target(out)
    entries = read_entries(texts, file, field)
    for entry in entries:
        if not has_blank(entry.text):
            raise InputError(f"{entry.place} has no blank: put [MASK] where something shall be filled in.")
    ignored = given(context, ("beams", "max_length"))
    if ignored and family_at(model, model_dir) == "bert":
        raise InputError(f"{', '.join(ignored)} has no meaning with a BERT, which fills each blank with one token.")
    run = predictor("masklm", model, model_dir, device, quantize, shipped_by_default(context))

    def show(_: Entry, found: "list[Filled]") -> None:
        for filled in found:
            show_filled(filled.text, filled.spans, filled.score)

    answer(
        entries,
        lambda batch: run.fill_blanks(
            [entry.text for entry in batch],
            num_return_sequences=num_return_sequences,
            beam_size=beams,
            out_max_length=max_length,
        ),
        as_fields=lambda found: {"filled": [asdict(filled) for filled in found]},
        show=show,
        batch_size=batch_size,
        as_json=as_json,
        out=out,
    )


def _write(
    entries: list[Entry],
    prompts: Sequence[str],
    run: "Predictor",
    options: dict[str, Any],
    name: str,
    **output: Any,
) -> None:
    """Answers to prompts; several to each are a list, with their scores."""
    rows = {id(entry): row for row, entry in enumerate(entries)}
    seeds = seeds_of(prompts, options)
    common = {option: value for option, value in options.items() if option != "seed"}

    def compute(batch: list[Entry]) -> list[list["Written"]]:
        taken = [rows[id(entry)] for entry in batch]
        own: dict[str, Any] = {} if seeds is None else {"seeds": [seeds[row] for row in taken]}
        found: list[list[Written]] = run.write([prompts[row] for row in taken], **common, **own)
        return found

    def as_fields(found: list["Written"]) -> dict[str, Any]:
        if options["num_return_sequences"] == 1:
            return {name: found[0].written}
        return {name: [best.written for best in found], "scores": [best.score for best in found]}

    def show(_: Entry, found: list["Written"]) -> None:
        for best in found:
            typer.echo(best.written)

    answer(entries, compute, as_fields=as_fields, show=show, **output)
