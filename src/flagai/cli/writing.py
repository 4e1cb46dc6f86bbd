"""``flagai title``, ``poem``, ``write`` and ``fill``."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flagai.catalog.tasks import DEFAULT_MODELS
from flagai.cli.command import command, given
from flagai.cli.input import SAMPLES, accept_all, read_entries
from flagai.cli.loading import load_pipeline
from flagai.cli.options import BeamOptions, WritingOptions
from flagai.cli.output import answer, check_target
from flagai.cli.terminal import show_filled
from flagai.data.prepare.poem import PoemForm, poem_prompt
from flagai.errors import InputError
from flagai.jobs.answering import InputText
from flagai.pipelines import TextGenerationPipeline
from flagai.task_defaults import GENERATION

if TYPE_CHECKING:
    from flagai.model.predictor.predictor import Predictor
    from flagai.model.predictor.results import Filled, Written


def _defaults(task: str) -> dict[str, Any]:
    """What ``flagai.load`` takes for a task, by the names of the command line's options."""
    known: dict[str, Any] = {**GENERATION[task]}
    for name in ("input_max_length", "truncation"):
        known.pop(name, None)
    names = {"out_max_length": "max_length", "do_sample": "sample", "num_beams": "beams"}
    return {"model": DEFAULT_MODELS[task][0]} | {names.get(name, name): value for name, value in known.items()}


@command(batch_size=256, sample=False, top_k=10, top_p=1.0, repetition_penalty=1.0, **_defaults("title-generation"))
def title(context: typer.Context, options: WritingOptions) -> None:
    """Generate a title for each text."""
    from flagai.families.family import lowers_titles

    check_target(options.out, overwrite=options.overwrite)
    arguments = options.arguments(context) | {"input_max_length": 512}
    entries = read_entries(options)
    run = load_pipeline("title-generation", options, quantize=options.quantize).predictor
    lower = lowers_titles(run.model)
    _write(entries, lambda entry: entry.text.lower() if lower else entry.text, run, options, arguments, "title")


@dataclass(frozen=True, kw_only=True)
class _PoemOptions(WritingOptions):
    """Texts are titles of poems."""

    texts: Annotated[list[str] | None, typer.Argument(help="Titles of the poems, at most 20 characters each.")] = None
    form: Annotated[PoemForm, typer.Option(help="Form: four or eight lines of five or seven characters.")] = (
        PoemForm.seven_quatrain
    )
    strict: Annotated[
        bool,
        typer.Option("--strict/--free", help="Keep tones and rhymes, or only lines and variety (docs/poetry.md)."),
    ] = True


@command(without=("length_penalty", "prompt_lookup_num_tokens"), field="title", batch_size=256, **_defaults("poetry"))
def poem(context: typer.Context, options: _PoemOptions) -> None:
    """Generate a classical Chinese poem for each title."""
    check_target(options.out, overwrite=options.overwrite)
    arguments = options.arguments(context) | {"truncation": False}
    form = options.form if given(context, "form") else None

    def prompt(entry: InputText) -> str:
        return poem_prompt(entry.text, form, entry.place)

    def check(entry: InputText) -> None:
        prompt(entry)

    entries = read_entries(options, check)
    poet = load_pipeline("poetry", options, quantize=options.quantize)
    if not isinstance(poet, TextGenerationPipeline):
        raise TypeError(f"{poet!r} writes no poems")

    def rules(prompts: list[str]) -> dict[str, Any]:
        return {"logits_processors": [poet.rules(prompts, strict=options.strict)]}

    _write(entries, prompt, poet.predictor, options, arguments, "poem", check, rules)


@command(without=("length_penalty",), batch_size=256, beams=1, **_defaults("writing"))
def write(context: typer.Context, options: WritingOptions) -> None:
    """Continue each text. A single text is streamed to the terminal."""
    check_target(options.out, overwrite=options.overwrite)
    arguments = options.arguments(context) | {"input_max_length": 512}
    entries = read_entries(options)
    run = load_pipeline("writing", options, context, quantize=options.quantize).predictor
    files = options.as_json or options.out is not None
    if (
        len(entries) == 1
        and SAMPLES.get() is None
        and options.num_return_sequences == 1
        and sys.stdout.isatty()
        and not files
    ):
        for piece in run.stream(entries[0].text, **arguments):
            typer.echo(piece, nl=False)
        typer.echo()
        return
    _write(entries, lambda entry: entry.text, run, options, arguments, "continuation")


@command(model=DEFAULT_MODELS["masklm"][0], batch_size=256, max_length=64)
def fill(context: typer.Context, options: BeamOptions) -> None:
    """Fill the blanks in each text: [MASK] (words), and for GLM [sMASK] (sentence) and [gMASK] (document ending)."""
    from flagai.auto_model.lookup import family_at
    from flagai.families.family import family_named
    from flagai.model.predictor.blanks import has_blank

    check_target(options.out, overwrite=options.overwrite)

    def check(entry: InputText) -> None:
        if not has_blank(entry.text):
            raise InputError(f"{entry.place} has no blank: put [MASK] where something is to be filled in.")

    entries = read_entries(options, check)
    ignored = given(context, "beams", "max_length")
    if ignored and family_named(family_at(options.model, options.model_dir)).blanks == "tokens":
        raise InputError(f"{', '.join(ignored)} has no meaning with a BERT, which fills each blank with one token.")
    run = load_pipeline("masklm", options, context, quantize=options.quantize).predictor

    def show(_: InputText, found: "list[Filled]") -> None:
        for filled in found:
            show_filled(filled.text, filled.spans, filled.score)

    answer(
        entries,
        lambda batch: run.fill_blanks(
            [entry.text for entry in batch], options.num_return_sequences, options.max_length, options.beams
        ),
        options,
        as_fields=lambda found: {"filled": [asdict(filled) for filled in found]},
        show=show,
        check=check,
        runs=run,
    )


def _write(
    entries: list[InputText],
    prompt_of: Callable[[InputText], str],
    run: "Predictor",
    options: WritingOptions,
    arguments: dict[str, Any],
    name: str,
    check: Callable[[InputText], None] = accept_all,
    more: Callable[[list[str]], dict[str, Any]] = lambda _: {},
) -> None:
    """Answers to prompts; several to each are a list, with their scores. ``more`` gives options for a batch of them."""
    common = {argument: value for argument, value in arguments.items() if argument != "seed"}
    seed: int | None = arguments.get("seed")

    def compute(batch: list[InputText]) -> list[list["Written"]]:
        own: dict[str, Any] = {} if seed is None else {"seeds": [seed + entry.draws for entry in batch]}
        prompts = [prompt_of(entry) for entry in batch]
        found: list[list[Written]] = run.write(prompts, **common, **own, **more(prompts))
        return found

    def as_fields(found: list["Written"]) -> dict[str, Any]:
        if options.num_return_sequences == 1:
            return {name: found[0].written}
        return {name: [best.written for best in found], "scores": [best.score for best in found]}

    def show(_: InputText, found: list["Written"]) -> None:
        for best in found:
            typer.echo(best.written)

    answer(entries, compute, options, as_fields=as_fields, show=show, check=check, runs=run, at_once=True)
