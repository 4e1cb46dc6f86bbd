"""The options that several commands share, each declared once; :mod:`flagai.cli.command` puts them into commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flagai.cli.command import given
from flagai.errors import InputError

Cards = Annotated[Path | None, typer.Option(help="Directory with additional model cards (TOML). Also: FLAGAI_CARDS.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines (one object per line).")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Model name, directory, or repository (owner/name).",
        show_default=True,
    ),
]
Adapter = Annotated[Path | None, typer.Option(help="Directory of a LoRA adapter (PEFT) for the model.")]
ModelDir = Annotated[
    Path | None,
    typer.Option("--model-dir", help="Directory that contains the models. Default: FLAGAI_HOME, else ./checkpoints."),
]
Texts = Annotated[list[str] | None, typer.Argument(help="Input texts. Without any, --file or stdin is read.")]
InFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        help="Input file: one text per line, JSON Lines (.jsonl, or a file that begins with {), or a table with a "
        "header (.csv, .tsv), each also as .gz. Use - for stdin.",
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Output file: JSON Lines, .csv or .tsv, each also as .gz. Use - for stdout."),
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
    field: Annotated[str, typer.Option(help="JSON field or table column that contains the text.")] = "text"
    batch_size: Annotated[int, typer.Option(min=1, help="Number of texts per batch.")]
    model_dir: ModelDir = None
    device: Annotated[
        str | None, typer.Option(help="Device, such as cpu or cuda:1. Default: the GPU if there is one, else the CPU.")
    ] = None
    adapter: Adapter = None
    as_json: Json = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite the file of --out.")] = False


@dataclass(frozen=True, kw_only=True)
class BeamOptions(TaskOptions):
    """What every command takes whose model writes."""

    num_return_sequences: Annotated[
        int, typer.Option("--num-return-sequences", "-n", min=1, help="Number of outputs per text.")
    ] = 1
    beams: Annotated[int, typer.Option(min=1, help="With --search: number of beams (1: greedy search).")] = 4
    max_length: Annotated[int, typer.Option(help="Maximum number of generated tokens.")]
    quantize: Annotated[
        str | None, typer.Option(help="Weight-only quantization: int8, int4, int8-all or int4-all.")
    ] = None
    memory: Annotated[
        int | None,
        typer.Option(min=1, help="Memory of the key-value cache in MiB. Default: a share of the free memory."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class WritingOptions(BeamOptions):
    """How texts are written: by search or by sampling."""

    sample: Annotated[bool, typer.Option("--sample/--search", help="Sample randomly, or use greedy or beam search.")]
    seed: Annotated[
        int | None,
        typer.Option(help="With --sample: random seed; a repeated text uses the next one."),
    ] = None
    top_k: Annotated[int, typer.Option(min=0, help="With --sample: sample from the k most likely tokens (0: all).")]
    top_p: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="With --sample: sample from the most likely tokens with this total probability."
        ),
    ]
    temperature: Annotated[float, typer.Option(help="With --sample: temperature; above 1, texts are more diverse.")] = (
        1.0
    )
    repetition_penalty: Annotated[float, typer.Option(help="Penalty of repeated tokens (1: none).")]
    length_penalty: Annotated[
        float, typer.Option(help="With --search: score = log-probability / length**penalty (0: sum, 1: mean).")
    ] = 0.0
    prompt_lookup_num_tokens: Annotated[
        int,
        typer.Option(
            min=0,
            help="Prompt lookup decoding, with --sample or --beams 1: draft up to N tokens per step from the input; "
            "the output is unchanged.",
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
