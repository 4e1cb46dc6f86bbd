"""``flagai match`` and ``flagai embed``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flagai.catalog.packages import DEFAULT_EMBEDDING
from flagai.cli.common import Json, print_json, read_lines
from flagai.errors import InputError

if TYPE_CHECKING:
    import torch

    from flagai.model.predictor.embedder import SentenceEmbedder

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A model's folder, or its name in the catalog; fetched if it is not here.",
        show_default=True,
    ),
]
Device = Annotated[str, typer.Option(help="Where to run, such as cpu, cuda or cuda:1.")]


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
            print_json({"text1": text1, "text2": text2, "similarity": round(score, 6)})
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
    for number, line in enumerate(read_lines(file), 1):
        try:
            entry = json.loads(line)
            pairs.append((entry["text1"], entry["text2"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}, line {number}: expected a JSON object with text1 and text2.") from error
    return pairs


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
    sentences = list(texts or []) + (read_lines(file) if file is not None else [])
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
            print_json({"text": text, "embedding": vector})
        return
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8") as target:
        for text, vector in entries:
            target.write(json.dumps({"text": text, "embedding": vector}, ensure_ascii=False) + "\n")


def _embedder(model: str, device: str) -> "SentenceEmbedder":
    from flagai.model.obtain import obtain
    from flagai.model.predictor.embedder import SentenceEmbedder

    return SentenceEmbedder.from_folder(obtain(model).folder, device=device)
