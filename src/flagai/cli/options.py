"""The options that several commands share, each declared once; :mod:`flagai.cli.command` puts them into commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flagai.cli.command import given
from flagai.errors import InputError

Cards = Annotated[Path | None, typer.Option(help="A folder with cards of your own; see also FLAGAI_CARDS.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A model's name or folder, or a repository: owner/name.",
        show_default=True,
    ),
]
Adapter = Annotated[Path | None, typer.Option(help="The folder of a LoRA adapter of PEFT for the model.")]
ModelDir = Annotated[Path | None, typer.Option("--model-dir", help="The folder of models; default FLAGAI_HOME.")]
Texts = Annotated[list[str] | None, typer.Argument(help="Texts. Without any, --file or the standard input is read.")]
InFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        help="A text a line, JSON lines (.jsonl, or a file that begins with {), or a table with a header (.csv, .tsv), "
        "each also as .gz; - is stdin.",
    ),
]
OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write JSON lines, or .csv or .tsv, each also as .gz; - is stdout.")
]
_SAMPLING = ("seed", "top_k", "top_p", "temperature")
_SEARCHING = ("beams", "length_penalty")
_BOTH = ("repetition_penalty", "num_return_sequences", "prompt_lookup_num_tokens")


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What every command for a task takes: texts, a model, and where answers go."""

    texts: Texts = None
    model: Model
    file: InFile = None
    out: OutFile = None
    field: Annotated[
        str, typer.Option(help="The field of JSON lines, or the column of a table, that has the text.")
    ] = "text"
    batch_size: Annotated[int, typer.Option(min=1, help="How many texts run together.")]
    model_dir: ModelDir = None
    device: Annotated[
        str | None, typer.Option(help="Where to run, such as cpu or cuda:1; default the best there is.")
    ] = None
    adapter: Adapter = None
    as_json: Json = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out, if there is one.")] = False


@dataclass(frozen=True, kw_only=True)
class BeamOptions(TaskOptions):
    """What every command takes whose model writes."""

    num_return_sequences: Annotated[
        int, typer.Option("--num-return-sequences", "-n", min=1, help="How many answers to each text.")
    ] = 1
    beams: Annotated[int, typer.Option(min=1, help="With --search: how many answers are followed at a time.")] = 4
    max_length: Annotated[int, typer.Option(help="How many tokens an answer may have.")]
    quantize: Annotated[
        str | None, typer.Option(help="Keep the weights in fewer bits: int8, int4, int8-all or int4-all.")
    ] = None
    memory: Annotated[
        int | None, typer.Option(min=1, help="The most MiB of keys and values; default a share of what is free.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class WritingOptions(BeamOptions):
    """How texts are written: by search or by sampling."""

    sample: Annotated[bool, typer.Option("--sample/--search", help="Draw by chance, or search the most probable.")]
    seed: Annotated[
        int | None,
        typer.Option(help="With --sample: the same number draws the same answers; an equal text has the next one."),
    ] = None
    top_k: Annotated[int, typer.Option(min=0, help="With --sample: draw among so many tokens.")]
    top_p: Annotated[float, typer.Option(min=0, max=1, help="With --sample: draw among tokens of this probability.")]
    temperature: Annotated[float, typer.Option(help="With --sample: above 1 is wilder.")] = 1.0
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 repeats less.")]
    length_penalty: Annotated[
        float, typer.Option(help="With --search: 0 compares sums of log-probabilities, 1 their means.")
    ] = 0.0
    prompt_lookup_num_tokens: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --sample, or --search --beams 1: guess so many tokens at a time from the text. The same answers "
            "in fewer steps, where they copy from it.",
        ),
    ] = 0

    def arguments(self, context: typer.Context) -> dict[str, Any]:
        """The arguments of ``Predictor.write``, checked together before a model is loaded.

        Args:
            context: the command's, which knows the options that were typed.

        Raises:
            InputError: an option would change nothing, or has an impossible value.
        """
        from flagai.generation import Decoding
        from flagai.model.predictor.options import Options

        beam_search = [name for name in _SEARCHING if name != "beams" or self.beams > 1]  # one beam is none
        searching, sampling = given(context, *beam_search), given(context, *_SAMPLING)
        typed = bool(given(context, "sample"))
        if searching and sampling and not typed:
            raise InputError(
                f"{', '.join(searching)} has no meaning with {', '.join(sampling)}. Leave one of them out."
            )
        sample = self.sample and (typed or not searching)  # beams are asked for: search, as flagai.load does
        ignored = searching if sample else sampling
        if ignored:
            mode, other = ("--sample", "--search") if sample else ("--search", "--sample")
            raise InputError(f"{', '.join(ignored)} has no meaning with {mode}. Add {other}, or leave it out.")
        if not sample and self.beams == 1 and given(context, "length_penalty"):
            raise InputError("--length-penalty has no meaning with --beams 1. Raise --beams, or leave it out.")
        found = {name: getattr(self, name) for name in _BOTH}
        if sample:
            found |= {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
            found["do_sample"] = True
        else:
            found |= {"num_beams": self.beams, "length_penalty": self.length_penalty}
        asked = Options.read(self.max_length, found)
        Decoding(max_new_tokens=asked.max_new_tokens, **asked.decoding)
        return found | {"out_max_length": self.max_length}
