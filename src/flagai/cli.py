"""The command line: ``flagai match``, ``embed``, ``convert`` and ``doctor``."""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from flagai import __version__
from flagai.catalog.packages import DEFAULT_EMBEDDING, find_model
from flagai.errors import FlagAIError, InputError

if TYPE_CHECKING:
    import torch

    from flagai.model.predictor.embedder import SentenceEmbedder

app = typer.Typer(
    name="flagai",
    help="The pretrained language models of FlagAI's model module: GLM, BERT/RoBERTa, GPT-2 and T5.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_DTYPES = ("float32", "float16", "bfloat16")
Model = Annotated[
    str, typer.Option("--model", "-m", help="A model's folder, or the name of a packaged model.", show_default=True)
]
Device = Annotated[str, typer.Option(help="Where to run, such as cpu, cuda or cuda:1.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def main() -> None:
    """Run the command line; errors of flagai end it with one message and exit code 1."""
    try:
        app()
    except FlagAIError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        sys.exit(0)


def _fail(message: str) -> NoReturn:
    typer.secho("error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.echo(message, err=True)
    sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flagai {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is going on.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s")


@app.command()
def match(
    first: Annotated[str | None, typer.Argument(help="A sentence.")] = None,
    second: Annotated[str | None, typer.Argument(help="The sentence to compare it with.")] = None,
    model: Model = DEFAULT_EMBEDDING,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Pairs instead: JSON lines with text1 and text2; - is stdin.")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Print how similar two sentences are, from -1 to 1: the cosine of their embeddings."""
    pairs = _pairs(first, second, file)
    scores = _embedder(model, device).match([pair[0] for pair in pairs], [pair[1] for pair in pairs]).tolist()
    for (text1, text2), score in zip(pairs, scores, strict=True):
        if as_json:
            _print_json({"text1": text1, "text2": text2, "similarity": round(score, 6)})
        else:
            typer.echo(f"{score:.4f}" if file is None else f"{score:.4f}\t{text1}\t{text2}")


def _pairs(first: str | None, second: str | None, file: Path | None) -> list[tuple[str, str]]:
    if file is None:
        if first is None or second is None:
            raise InputError("match needs two sentences, or --file with pairs.")
        return [(first, second)]
    if first is not None:
        raise InputError("match takes two sentences or --file, not both.")
    pairs = []
    for number, line in enumerate(_lines(file), 1):
        try:
            entry = json.loads(line)
            pairs.append((entry["text1"], entry["text2"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}, line {number}: expected a JSON object with text1 and text2.") from error
    return pairs


@app.command()
def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Sentences.")] = None,
    model: Model = DEFAULT_EMBEDDING,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="One sentence a line; - is stdin.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write to this file: .safetensors, or else JSON lines.")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Scale vectors to length 1.")] = False,
    device: Device = "cpu",
) -> None:
    """Write the embedding of each sentence, the mean of its last hidden states, as JSON lines or safetensors."""
    sentences = list(texts or []) + (_lines(file) if file is not None else [])
    if not sentences:
        raise InputError("embed needs sentences, or --file.")
    vectors = _embedder(model, device).embed(sentences, normalize=normalize)
    if out is not None and out.suffix == ".safetensors":
        _write_tensor(out, vectors)
    else:
        _write_lines(out, sentences, vectors)


def _write_tensor(path: Path, vectors: "torch.Tensor") -> None:
    from safetensors.torch import save_file

    from flagai.checkpoint.atomic import replace_file

    with replace_file(path) as temporary:
        save_file({"embeddings": vectors}, temporary)


def _write_lines(path: Path | None, sentences: list[str], vectors: "torch.Tensor") -> None:
    from flagai.checkpoint.atomic import replace_file

    entries = zip(sentences, vectors.tolist(), strict=True)
    if path is None:
        for text, vector in entries:
            _print_json({"text": text, "embedding": vector})
        return
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8") as target:
        for text, vector in entries:
            target.write(json.dumps({"text": text, "embedding": vector}, ensure_ascii=False) + "\n")


@app.command(name="convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="A folder with config.json and weights in any known format.")],
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    layout: Annotated[str, typer.Option(help="Names of tensors: huggingface or flagai.")] = "huggingface",
    dtype: Annotated[str | None, typer.Option(help=f"Type to write: {', '.join(_DTYPES)}; default as it is.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest size of a file.")] = "5GB",
    model_class: Annotated[str | None, typer.Option(help="The model class, if the folder does not tell it.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Convert a checkpoint to safetensors, with its tokenizer files."""
    from flagai.checkpoint.report import fold
    from flagai.convert import convert

    result = convert(
        source,
        target,
        layout=layout,
        dtype=dtype,
        max_shard_size=max_shard_size,
        model_class=model_class,
        overwrite=overwrite,
    )
    typer.echo(f"{target}: {result.model_class}, {result.parameters:,} parameters, layout {layout}")
    if result.companions:
        typer.echo(f"copied: {', '.join(result.companions)}")
    if result.dropped:
        typer.echo(f"not used by {result.model_class}, so not written: {', '.join(fold(result.dropped))}")


@app.command()
def doctor(folder: Annotated[Path, typer.Argument(help="A model's folder, or a weights file.")]) -> None:
    """Examine a model: are the files whole, do they fit the configuration, are the weights finite?"""
    from flagai.doctor import examine

    sick = False
    for finding in examine(folder):
        sick |= finding.problem
        typer.secho("  bad " if finding.problem else "   ok ", fg="red" if finding.problem else "green", nl=False)
        typer.echo(finding.text)
    if sick:
        raise typer.Exit(1)


def _embedder(model: str, device: str) -> "SentenceEmbedder":
    from flagai.model.predictor.embedder import SentenceEmbedder

    return SentenceEmbedder.from_folder(find_model(model), device=device)


def _lines(file: Path) -> list[str]:
    """The lines of a file, or of the standard input for ``-``, without empty ones at the end."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 (byte {error.start}). Convert it first.") from error
    return [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")] if text.strip() else []


def _print_json(entry: dict[str, object]) -> None:
    typer.echo(json.dumps(entry, ensure_ascii=False))
