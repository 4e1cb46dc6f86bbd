"""``flagai match`` and ``flagai embed``."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flagai.catalog.packages import DEFAULT_EMBEDDING
from flagai.cli.common import Json, as_typed, predictor, print_json
from flagai.cli.entries import (
    BatchSize,
    Device,
    Entry,
    Field,
    Home,
    InFile,
    OutFile,
    Texts,
    answer,
    in_batches,
    read_entries,
    read_rows,
)
from flagai.cli.languages import default_model
from flagai.cli.output import check_target, open_bytes
from flagai.cli.strategy import given
from flagai.data.tokenizer.text import clean
from flagai.errors import InputError, ModelNotFoundError

CONFIG_FILE = "config.json"
Embedding = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A model's name or folder; default for Chinese texts me5-small-bert-zh.",
        show_default=True,
    ),
]
_ARRAYS = (".safetensors", ".npy")

if TYPE_CHECKING:
    import torch

    from flagai.model.predictor.embedder import SentenceEmbedder


def match(
    context: typer.Context,
    first: Annotated[str | None, typer.Argument(help="A sentence.")] = None,
    second: Annotated[str | None, typer.Argument(help="The sentence to compare it with.")] = None,
    model: Embedding = DEFAULT_EMBEDDING,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Pairs: JSON lines, .csv or .tsv with text1 and text2, also .gz; - is stdin."
        ),
    ] = None,
    out: OutFile = None,
    batch_size: BatchSize = 1024,
    model_dir: Home = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Print how similar two sentences are.

    From -1 to 1, the cosine of their embeddings; with a model that was fine-tuned for semantic matching, from 0 to 1,
    the probability that they mean the same; with a regression, its number.
    """
    check_target(out)
    pairs = _pairs(first, second, file)
    model = _suited(context, model, model_dir, [text for entry in pairs for text in _both(entry)])
    similarities = _similarities(model, model_dir, device)

    def show(entry: Entry, score: float) -> None:
        typer.echo("\t".join([f"{score:.4f}", *([] if file is None else clean(_both(entry)))]))

    answer(
        pairs,
        lambda batch: similarities([_both(entry) for entry in batch]),
        as_fields=lambda score: {"similarity": round(score, 6)},
        show=show,
        batch_size=batch_size,
        as_json=as_json,
        out=out,
    )


def _both(entry: Entry) -> tuple[str, str]:
    return entry.fields["text1"], entry.fields["text2"]


def _similarities(model: str, home: Path | None, device: str | None) -> Callable[[list[tuple[str, str]]], list[float]]:
    """What tells how similar the texts of each pair are, by a loaded model."""
    if _classifies(model, home):
        run = predictor("semantic-matching", model, home, device)
        if run.model.config.class_num > 2:
            raise InputError(f"{model} has {run.model.config.class_num} classes, not whether two texts mean the same.")
        return lambda pairs: [float(row[-1]) for row in run.class_probabilities(pairs)]
    embedder = _embedder(model, home, device)
    return lambda pairs: [float(score) for score in embedder.match(*map(list, zip(*pairs, strict=True)))]


def _classifies(model: str, home: Path | None) -> bool:
    """Whether a model was fine-tuned to tell whether two texts mean the same."""
    from flagai.auto_model.auto_loader import class_at
    from flagai.catalog.catalog import find

    try:
        found = class_at(model, None if Path(model).is_dir() else home)
        return find(model).task == "semantic-matching" if found is None else found == "BertForClsClassifier"
    except ModelNotFoundError:
        return False


def _pairs(first: str | None, second: str | None, file: Path | None) -> list[Entry]:
    if file is None:
        if first is None or second is None:
            raise InputError("match needs two sentences, or --file with pairs.")
        first, second = as_typed(first, "The first text"), as_typed(second, "The second text")
        return [Entry(first, {"text1": first, "text2": second}, "Pair 1")]
    if first is not None:
        raise InputError("match takes two sentences or --file, not both.")
    pairs = []
    for place, fields in read_rows(file, "text1"):
        found = fields if isinstance(fields, dict) else {}
        text1, text2 = found.get("text1"), found.get("text2")
        if not isinstance(text1, str) or not isinstance(text2, str):
            raise InputError(f"{place}: expected an object with text1 and text2, two texts.")
        pairs.append(Entry(text1, fields, place))
    return pairs


def embed(
    context: typer.Context,
    texts: Texts = None,
    model: Embedding = DEFAULT_EMBEDDING,
    file: InFile = None,
    field: Field = "text",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write arrays (.safetensors, .npy), or JSON lines, .csv or .tsv, these also as .gz; - is stdout.",
        ),
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Scale vectors to length 1.")] = False,
    batch_size: BatchSize = 1024,
    model_dir: Home = None,
    device: Device = None,
) -> None:
    """Write the embedding of each sentence, the mean of its last hidden states, as JSON lines or safetensors."""
    check_target(out, *_ARRAYS)
    entries = read_entries(texts, file, field)
    embedder = _embedder(_suited(context, model, model_dir, [entry.text for entry in entries]), model_dir, device)

    def compute(batch: list[Entry]) -> "torch.Tensor":
        return embedder.embed([entry.text for entry in batch], normalize=normalize)

    if out is not None and out.suffix in _ARRAYS:
        _write_array(out, [compute(batch) for batch in in_batches(entries, batch_size)] or [compute([])])
        return
    answer(
        entries,
        lambda batch: compute(batch).tolist(),
        as_fields=lambda vector: {"embedding": vector},
        show=lambda entry, vector: print_json(entry.fields | {"embedding": vector}),
        batch_size=batch_size,
        as_json=True,
        out=out,
    )


def _write_array(path: Path, parts: "list[torch.Tensor]") -> None:
    import numpy as np
    import torch
    from safetensors.torch import save

    vectors, content = torch.cat(parts), io.BytesIO()
    if path.suffix == ".npy":
        np.save(content, vectors.numpy())
    else:
        content.write(save({"embeddings": vectors}))
    with open_bytes(path) as raw:
        raw.write(content.getbuffer())


def _suited(context: typer.Context, model: str, home: Path | None, texts: list[str]) -> str:
    """The model that was named, or the default one for the script of the texts."""
    return model if given(context, ("model",)) else default_model(texts, home)


def _embedder(model: str, home: Path | None, device: str | None) -> "SentenceEmbedder":
    import torch

    from flagai.auto_model.auto_loader import AutoLoader
    from flagai.model.device import best_device, read_device
    from flagai.model.predictor.embedder import SentenceEmbedder

    place = read_device(best_device() if device is None else device)
    dtype = torch.float32 if place.type == "cpu" else None
    loader = AutoLoader("embedding", model, home, device=place, torch_dtype=dtype)
    return SentenceEmbedder(loader.get_model(), loader.get_tokenizer(), strict=True)
