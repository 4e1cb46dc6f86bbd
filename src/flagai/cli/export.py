"""``flagai export``."""

from pathlib import Path
from typing import Annotated

import typer

from flagai.catalog.tasks import TASKS, task_named
from flagai.cli.command import command
from flagai.cli.options import ModelDir

_ENCODER = "encoder"
group = typer.Typer(help="Export a model to another runtime.", no_args_is_help=True, rich_markup_mode=None)


@group.callback()
def _only_subcommands() -> None:
    """Keep `onnx` a subcommand, which typer would drop as the only one."""


@group.command("onnx")
@command()
def export_model(
    model: Annotated[str, typer.Argument(help="Model name, directory, or repository (owner/name).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output directory.")],
    task: Annotated[
        str,
        typer.Option(
            help=f"Task of the model: {', '.join(TASKS)}; or encoder, the states of a BERT or of a T5's encoder."
        ),
    ],
    dtype: Annotated[str, typer.Option(help="Type of the weights: float32 or float16.")] = "float32",
    opset: Annotated[int, typer.Option(help="The version of ONNX's operators.")] = 20,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Write the weights beside the graph; above 2 GB always.")
    ] = False,
    model_dir: ModelDir = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a directory that is not empty.")] = False,
) -> None:
    """Export a model to ONNX with its tokenizer, and compare the outputs of ONNX Runtime and PyTorch."""
    from flagai.export.loading import export_task

    asked = task if task == _ENCODER else task_named(task)
    written = export_task(
        model,
        out,
        asked,
        model_dir=model_dir,
        dtype=dtype,
        opset=opset,
        external_data=external_data or None,
        overwrite=overwrite,
    )
    typer.echo(f"{out}: {written.model_class}, opset {written.opset}, {written.dtype}; {', '.join(written.files)}")
    for kind, ports in (("input", written.inputs), ("output", written.outputs)):
        for port in ports:
            if not port.name.startswith(("past_key_values.", "present.")):
                typer.echo(f"{kind} {port.name} {port.shape}: {port.meaning}")
    typer.echo(f"ONNX Runtime equals torch to {written.difference:.1e} of a tensor's largest number.")
