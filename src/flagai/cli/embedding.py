"""``flagai match`` and ``flagai embed``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flagai import settings
from flagai.catalog.packages import DEFAULT_EMBEDDING
from flagai.cli.common import Json, predictor, print_json, read_lines
from flagai.cli.entries import BatchSize, Device, Field, Home, InFile, Model, Texts, answer, read_entries
from flagai.errors import InputError, ModelNotFoundError

CONFIG_FILE = "config.json"

if TYPE_CHECKING:
    import torch

    from flagai.model.predictor.embedder import SentenceEmbedder


def match(
    first: Annotated[str | None, typer.Argument(help="A sentence.")] = None,
    second: Annotated[str | None, typer.Argument(help="The sentence to compare it with.")] = None,
    model: Model = DEFAULT_EMBEDDING,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Pairs instead: JSON lines with text1 and text2; - is stdin.")
    ] = None,
    model_dir: Home = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Print how similar two sentences are.

    From -1 to 1, the cosine of their embeddings; with a model that was fine-tuned for semantic matching, from 0 to 1,
    the probability that they mean the same.
    """
    pairs = _pairs(first, second, file)
    for (text1, text2), score in zip(pairs, _similarities(pairs, model, model_dir, device), strict=True):
        if as_json:
            print_json({"text1": text1, "text2": text2, "similarity": round(score, 6)})
        else:
            typer.echo(f"{score:.4f}" if file is None else f"{score:.4f}\t{text1}\t{text2}")


def _similarities(pairs: list[tuple[str, str]], model: str, home: Path | None, device: str | None) -> list[float]:
    if _classifies(model, home):
        probabilities = predictor("semantic-matching", model, home, device).class_probabilities(pairs)
        return [float(row[-1]) for row in probabilities]
    embedder = _embedder(model, home, device)
    return [float(score) for score in embedder.match([pair[0] for pair in pairs], [pair[1] for pair in pairs])]


def _classifies(model: str, home: Path | None) -> bool:
    """Whether a model was fine-tuned to tell whether two texts mean the same."""
    from flagai.catalog.catalog import find
    from flagai.checkpoint.reader import open_checkpoint
    from flagai.model.registry import find_class

    folder = Path(model) if Path(model).is_dir() else (settings.home() if home is None else home) / model
    try:
        if (folder / CONFIG_FILE).is_file():
            values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            return find_class(values, open_checkpoint(folder))[0].__name__ == "BertForClsClassifier"
        return find(model).task == "semantic-matching"
    except ModelNotFoundError:
        return False


def _pairs(first: str | None, second: str | None, file: Path | None) -> list[tuple[str, str]]:
    if file is None:
        if first is None or second is None:
            raise InputError("match needs two sentences, or --file with pairs.")
        return [(first, second)]
    if first is not None:
        raise InputError("match takes two sentences or --file, not both.")
    pairs = []
    for number, line in enumerate(read_lines(file), 1):
        try:
            entry = json.loads(line)
            pairs.append((entry["text1"], entry["text2"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}, line {number}: expected a JSON object with text1 and text2.") from error
    return pairs


def embed(
    texts: Texts = None,
    model: Model = DEFAULT_EMBEDDING,
    file: InFile = None,
    field: Field = "text",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write to this file: .safetensors, or else JSON lines.")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Scale vectors to length 1.")] = False,
    batch_size: BatchSize = 1024,
    model_dir: Home = None,
    device: Device = None,
) -> None:
    """Write the embedding of each sentence, the mean of its last hidden states, as JSON lines or safetensors."""
    entries = read_entries(texts, file, field)
    embedder = _embedder(model, model_dir, device)
    if out is not None and out.suffix == ".safetensors":
        _write_tensor(out, embedder.embed([entry.text for entry in entries], normalize=normalize))
        return
    answer(
        entries,
        lambda batch: embedder.embed([entry.text for entry in batch], normalize=normalize).tolist(),
        as_fields=lambda vector: {"embedding": vector},
        show=lambda entry, vector: print_json(entry.fields | {"embedding": vector}),
        batch_size=batch_size,
        as_json=True,
        out=out,
    )


def _write_tensor(path: Path, vectors: "torch.Tensor") -> None:
    from safetensors.torch import save_file

    from flagai.checkpoint.atomic import replace_file

    with replace_file(path) as temporary:
        save_file({"embeddings": vectors}, temporary)


def _embedder(model: str, home: Path | None, device: str | None) -> "SentenceEmbedder":
    import torch

    from flagai.auto_model.auto_loader import AutoLoader
    from flagai.model.placement import best_device, read_device
    from flagai.model.predictor.embedder import SentenceEmbedder

    place = read_device(best_device() if device is None else device)
    dtype = torch.float32 if place.type == "cpu" else None
    loader = AutoLoader("embedding", model, home, device=place, torch_dtype=dtype)
    return SentenceEmbedder(loader.get_model(), loader.get_tokenizer())
