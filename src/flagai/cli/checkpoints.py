"""``flagai convert`` and ``flagai doctor``."""

from pathlib import Path
from typing import Annotated

import typer

from flagai.cli.command import command
from flagai.cli.terminal import show_check

_DTYPES = ("float32", "float16", "bfloat16")


@command()
def convert(
    source: Annotated[str, typer.Argument(help="Model directory with weights in any known format, or model name.")],
    target: Annotated[Path, typer.Argument(help="Output directory.")],
    layout: Annotated[
        str | None, typer.Option(help="Tensor names: huggingface (default) or flagai (default for quantized weights).")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"Data type to write: {', '.join(_DTYPES)}. Default: unchanged.")
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="Quantize the weights of the blocks: int8 or int4.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Maximum size of a weights file.")] = "5GB",
    model_class: Annotated[str | None, typer.Option(help="Model class, if config.json does not determine it.")] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Directory of a LoRA adapter (PEFT) to merge into the weights.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a directory that is not empty.")] = False,
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
    folder: Annotated[str, typer.Argument(help="Model directory, model name, or weights file.")],
) -> None:
    """Check a model: are the files complete, do they fit the configuration, are the weights finite?"""
    from flagai.doctor import examine

    sick = False
    for finding in examine(folder):
        sick |= finding.problem
        show_check(not finding.problem, finding.text)
    if sick:
        raise typer.Exit(1)
