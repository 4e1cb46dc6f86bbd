"""``flagai match`` and ``flagai embed``."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from flagai.catalog.tasks import DEFAULT_EMBEDDING
from flagai.cli.command import command, given
from flagai.cli.input import SAMPLES, as_typed, read_entries, read_rows
from flagai.cli.languages import default_model
from flagai.cli.options import OutFile, TaskOptions
from flagai.cli.output import answer, check_target, open_bytes, print_json
from flagai.data.tokenizer.text import clean
from flagai.errors import InputError
from flagai.jobs.answering import InputText
from flagai.loading import load

if TYPE_CHECKING:
    import torch

_ARRAYS = (".safetensors", ".npy")
_ROWS = 1000  # whose vectors are lists at a time


@dataclass(frozen=True, kw_only=True)
class _EmbeddingOptions(TaskOptions):
    """The default model depends on the texts."""

    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Model name or directory. Default for Chinese texts: me5-small-bert-zh."),
    ] = DEFAULT_EMBEDDING
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Output file: .safetensors, .npy, JSON Lines, .csv or .tsv, text also as .gz. Use - for stdout.",
        ),
    ] = None

    def suited(self, context: typer.Context, texts: list[str]) -> Self:
        """These options with the model that was named, or the default one for the script of the texts."""
        return self if given(context, "model") else replace(self, model=default_model(texts, self.model_dir))


@dataclass(frozen=True, kw_only=True)
class _PairOptions(_EmbeddingOptions):
    """Files hold pairs of texts."""

    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Pairs: JSON Lines, .csv or .tsv with text1 and text2, also .gz. - is stdin."
        ),
    ] = None
    out: OutFile = None


@command(without=("texts", "field"), batch_size=1024)
def match(
    context: typer.Context,
    options: _PairOptions,
    first: Annotated[str | None, typer.Argument(help="First sentence.")] = None,
    second: Annotated[str | None, typer.Argument(help="Second sentence.")] = None,
) -> None:
    """Print the similarity of two sentences.

    From -1 to 1, the cosine of their embeddings; with a model that was fine-tuned for semantic matching, from 0 to 1,
    the probability that they mean the same; with a regression, its number.
    """
    check_target(options.out, overwrite=options.overwrite)
    pairs = _pairs(first, second, options.file)
    options = options.suited(context, [text for entry in pairs for text in _both(entry)])
    similarities = load(
        "semantic-matching",
        options.model,
        download_path=options.model_dir,
        device=options.device,
        adapter=options.adapter,
    )

    def show(entry: InputText, score: float) -> None:
        typer.echo("\t".join([f"{score:.4f}", *([] if options.file is None else clean(_both(entry)))]))

    answer(
        pairs,
        lambda batch: similarities([_both(entry) for entry in batch]),
        options,
        as_fields=lambda score: {"similarity": round(score, 6)},
        show=show,
        read=_pair,
        runs=similarities,
    )


def _both(entry: InputText) -> tuple[str, str]:
    return entry.fields["text1"], entry.fields["text2"]


def _pairs(first: str | None, second: str | None, file: Path | None) -> list[InputText]:
    samples = SAMPLES.get()
    if samples is not None:
        return [_pair(place, fields) for place, fields in samples if _is_pair(fields)]
    if file is None:
        if first is None or second is None:
            raise InputError("match needs two sentences, or --file with pairs.")
        first, second = as_typed(first, "The first text"), as_typed(second, "The second text")
        return [InputText(first, {"text1": first, "text2": second}, "Pair 1")]
    if first is not None:
        raise InputError("match takes two sentences or --file, not both.")
    return [_pair(place, fields) for place, fields in read_rows(file, "text1")]


def _pair(place: str, fields: Any) -> InputText:
    if not _is_pair(fields):
        raise InputError(f"{place}: expected an object with text1 and text2, two texts.")
    return InputText(fields["text1"], fields, place)


def _is_pair(fields: Any) -> bool:
    return isinstance(fields, dict) and all(isinstance(fields.get(name), str) for name in ("text1", "text2"))


@command(without=("as_json",), batch_size=1024, as_json=True)
def embed(
    context: typer.Context,
    options: _EmbeddingOptions,
    normalize: Annotated[bool, typer.Option(help="Normalize vectors to length 1.")] = False,
) -> None:
    """Compute the embedding of each sentence, with the pooling that the model directory states."""
    check_target(options.out, *_ARRAYS, overwrite=options.overwrite)
    entries = read_entries(options)
    options = options.suited(context, [entry.text for entry in entries])
    vectors_of = load(
        "embedding", options.model, download_path=options.model_dir, device=options.device, adapter=options.adapter
    )

    def compute(batch: list[InputText]) -> "torch.Tensor":
        return vectors_of([entry.text for entry in batch], normalize=normalize)

    out = options.out
    save = partial(_write_array, out, compute([])) if out is not None and out.suffix in _ARRAYS else None
    answer(
        entries,
        lambda batch: compute(batch).tolist(),
        options,
        as_fields=lambda vector: {"embedding": vector},
        show=lambda entry, vector: print_json(entry.fields | {"embedding": vector}),
        runs=vectors_of,
        save=save,
    )


def _write_array(path: Path, none: "torch.Tensor", rows: Iterator[dict[str, Any]]) -> None:
    """Write the vectors of rows; ``none`` has their width and no rows."""
    import numpy as np
    import torch
    from safetensors.torch import save

    parts = [none]
    while taken := list(islice(rows, _ROWS)):
        parts.append(torch.tensor([row["embedding"] for row in taken]))
    vectors, content = torch.cat(parts), io.BytesIO()
    if path.suffix == ".npy":
        np.save(content, vectors.numpy())
    else:
        content.write(save({"embeddings": vectors}))
    with open_bytes(path) as raw:
        raw.write(content.getbuffer())
