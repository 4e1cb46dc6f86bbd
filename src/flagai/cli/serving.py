"""``flagai serve``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from flagai import settings as process
from flagai.checks import check_extra
from flagai.cli.command import command
from flagai.cli.loading import check_place
from flagai.cli.options import ModelDir
from flagai.errors import InputError

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where and how a server runs."""

    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine only.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8000
    model_dir: ModelDir = None
    device: Annotated[
        str | None, typer.Option(help="Device, such as cpu or cuda:1. Default: the GPU if there is one, else the CPU.")
    ] = None
    dtype: Annotated[str | None, typer.Option(help="Data type of the parameters. Default: that of the checkpoint.")] = (
        None
    )
    quantize: Annotated[str | None, typer.Option(help="Weight-only quantization: int8 or int4.")] = None
    adapter: Annotated[
        list[str] | None, typer.Option(help="LoRA adapter as NAME=DIRECTORY; requests name it as model. Repeatable.")
    ] = None
    memory: Annotated[
        int | None,
        typer.Option(min=1, help="Memory of all key-value caches in MiB. Default: a share of the free memory."),
    ] = None
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with API keys, one per line. Also: FLAGAI_API_KEY.")
    ] = None
    open_to_all: Annotated[bool, typer.Option("--open-to-all", help="Allow other machines to call without a key.")] = (
        False
    )
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin that browsers may call from (CORS). Repeatable.")
    ] = None
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Include the texts of requests in the log.")] = False
    max_body: Annotated[int, typer.Option(min=1, help="Maximum size of a request in KiB.")] = 2048
    max_texts: Annotated[int, typer.Option(min=1, help="Maximum number of texts per request.")] = 1024
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of generated tokens.")] = 2048
    max_queue: Annotated[int, typer.Option(min=1, help="Maximum number of queued and running texts per model.")] = 4096
    timeout: Annotated[float, typer.Option(min=0.001, help="Timeout of a request in seconds.")] = 300
    idle_timeout: Annotated[float, typer.Option(min=0.001, help="Timeout in seconds for a client to send or read.")] = (
        30
    )
    stop_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that running requests get when the server stops.")
    ] = 60
    http_processes: Annotated[
        int | None, typer.Option(min=0, help="Number of HTTP processes beside the one that computes.")
    ] = None
    pack_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens per encoder batch.")] = 4096
    pack_wait: Annotated[
        float, typer.Option(min=0, help="Milliseconds that a text waits to be batched with others.")
    ] = 3


@command()
def serve(
    models: Annotated[
        list[str], typer.Argument(help="Model names or directories; MODEL:TASK,TASK restricts the tasks.")
    ],
    options: ServeOptions,
) -> None:
    """Serve models over HTTP, with a web page at / and the APIs of OpenAI and text-embeddings-inference."""
    check_extra("serve", "starlette", "uvicorn", "httptools", "prometheus_client")
    check_place(options.device, options.quantize)
    from flagai.serve.bounds import Bounds
    from flagai.serve.server import ServerSettings, run_server

    bounds = Bounds(
        body_bytes=options.max_body * 2**10,
        texts=options.max_texts,
        new_tokens=options.max_new_tokens,
        queue=options.max_queue,
        seconds=options.timeout,
        idle_seconds=options.idle_timeout,
        stop_seconds=options.stop_timeout,
        pack_tokens=options.pack_tokens,
        pack_seconds=options.pack_wait / 1000,
    )
    settings = ServerSettings(
        host=options.host,
        port=options.port,
        home=options.model_dir,
        place={
            "device": options.device,
            "dtype": options.dtype,
            "quantize": options.quantize,
            "mesh": "auto" if process.world_size() > 1 else None,
            "adapter": dict(_named(entry) for entry in options.adapter or []) or None,
        },
        memory=None if options.memory is None else options.memory * _MIB,
        key_file=options.api_key_file,
        open_to_all=options.open_to_all,
        origins=tuple(options.cors_origin or ()),
        log_texts=options.log_texts,
        processes=options.http_processes,
        bounds=bounds,
    )
    run_server(models, settings, lambda address: typer.echo(f"Serving {', '.join(models)} at {address}"))


def _named(entry: str) -> tuple[str, str]:
    """The name and the folder of --adapter.

    Raises:
        InputError: it is no such pair.
    """
    name, equals, folder = entry.partition("=")
    if not (name and equals and folder):
        raise InputError(f"--adapter {entry!r} is not a pair. Write it as --adapter law=adapters/law.")
    return name, folder
