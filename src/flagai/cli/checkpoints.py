"""``flagai convert`` and ``flagai doctor``."""

from pathlib import Path
from typing import Annotated

import typer

from flagai.cli.command import command
from flagai.cli.terminal import show_check

_DTYPES = ("float32", "float16", "bfloat16")


@command()
def convert(
    source: Annotated[str, typer.Argument(help="A model's folder, with weights in any known format, or its name.")],
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    layout: Annotated[
        str | None, typer.Option(help="Names of tensors: huggingface (default) or flagai (if quantized).")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help=f"Type to write: {', '.join(_DTYPES)}; default as it is.")] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Write the weights of blocks in fewer bits: int8 or int4.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest size of a file.")] = "5GB",
    model_class: Annotated[str | None, typer.Option(help="The model class, if the folder does not tell it.")] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="The folder of a LoRA adapter of PEFT, to merge into the weights.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Convert a checkpoint to safetensors, with its tokenizer files."""
    from flagai import convert as tool
    from flagai.checkpoint.report import fold

    result = tool.convert(
        source,
        target,
        layout=layout,
        dtype=dtype,
        quantize=quantize,
        max_shard_size=max_shard_size,
        model_class=model_class,
        adapter=adapter,
        overwrite=overwrite,
    )
    typer.echo(f"{target}: {result.model_class}, {result.parameters:,} parameters, layout {result.layout}")
    if result.companions:
        typer.echo(f"copied: {', '.join(result.companions)}")
    if result.left_out:
        typer.echo(f"not copied, links out of the folder: {', '.join(result.left_out)}")
    if result.dropped:
        typer.echo(f"not used by {result.model_class}, so not written: {', '.join(fold(result.dropped))}")


@command()
def doctor(
    folder: Annotated[str, typer.Argument(help="A model's folder, its name, or a weights file.")],
) -> None:
    """Examine a model: are the files whole, do they fit the configuration, are the weights finite?"""
    from flagai.doctor import examine

    sick = False
    for finding in examine(folder):
        sick |= finding.problem
        show_check(not finding.problem, finding.text)
    if sick:
        raise typer.Exit(1)
