"""The process of a server: its socket, its models, and its end."""

import asyncio
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from flagai.errors import ConfigError, FlagAIError, InputError, quoted
from flagai.generation.memory import bytes_per_token, free_bytes
from flagai.generation.protocol import GenerativeModel
from flagai.parallel.world import world
from flagai.serve.bounds import Bounds
from flagai.serve.calls import Served
from flagai.serve.desk import ModelDesk
from flagai.serve.engine import Engine
from flagai.serve.front_processes import FrontProcesses
from flagai.serve.keys import ApiKeys
from flagai.serve.listening import FrontSettings, HttpServer
from flagai.serve.lockstep import Lockstep
from flagai.serve.logs import log_as_json
from flagai.serve.metrics import ServerMetrics
from flagai.serve.served import ServedModel

# Processes that speak HTTP beside the one that keeps a GPU busy.
_GPU_FRONTS = 2
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a server runs.

    Args:
        host: the address to listen at.
        port: the port; 0 takes a free one.
        home: the model directory.
        place: ``device``, ``dtype``, ``quantize`` and ``adapter`` of :func:`flagai.load`.
        memory: bytes of the keys and values of all models together; default a share of what is free.
        key_file: a file with the clients' keys.
        open_to_all: whether other machines may call without a key.
        origins: from which other pages browsers may call.
        log_texts: whether the log has what clients send.
        processes: that speak HTTP beside the one that computes; default 2 with a GPU, none without.
        bounds: the limits.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    home: Path | None = None
    place: dict[str, Any] = field(default_factory=dict)
    memory: int | None = None
    key_file: Path | None = None
    open_to_all: bool = False
    origins: tuple[str, ...] = ()
    log_texts: bool = False
    processes: int | None = None
    bounds: Bounds = field(default_factory=Bounds)


def run_server(names: Sequence[str], settings: ServerSettings, tell: Callable[[str], None]) -> None:
    """Serve models until SIGTERM or SIGINT, and finish what runs then.

    Args:
        names: the models, each ``NAME`` or ``NAME:TASK,TASK``.
        settings: how.
        tell: is told the address, once it answers.

    Raises:
        FlagAIError: a model cannot be loaded, or the address cannot be taken.
    """
    if world().size > 1:
        _check_ranks(names)
        if world().rank:
            _follow(names[0], settings)
            return
    keys = ApiKeys.read(settings.key_file)
    local = _is_local(settings.host)
    if not local and not keys and not settings.open_to_all:
        raise ConfigError(
            f"--host {settings.host} lets other machines call, but there is no key. Give --api-key-file FILE or "
            "FLAGAI_API_KEY, or say --open-to-all."
        )
    count = _processes(settings)
    with ExitStack() as stack:
        first = stack.enter_context(_bound(settings.host, settings.port, shared=count > 1))
        log_as_json()
        models = _load(names, settings)
        metrics = ServerMetrics()
        served = _engines(models, settings, metrics)
        metrics.follow(served)
        served |= _adapters(served)
        desk = ModelDesk(served, settings.bounds, metrics, log_texts=settings.log_texts)
        front = FrontSettings(
            bounds=settings.bounds, keys=keys, origins=settings.origins, hosts=_LOOPBACK if local else ("*",)
        )
        listeners = [first, *(stack.enter_context(_beside(first)) for _ in range(count - 1))]
        asyncio.run(_serve(desk, front, listeners, count > 0, tell))


def _processes(settings: ServerSettings) -> int:
    """How many processes speak HTTP besides this one: some where a GPU computes, which this one has to keep busy."""
    shares = hasattr(socket, "SO_REUSEPORT")
    if settings.processes is not None:
        if settings.processes > 1 and not shares:
            raise ConfigError(
                f"--http-processes {settings.processes} needs sockets that share an address, which this system lacks. "
                "Leave the option out, or start a server for each port behind a load balancer."
            )
        return settings.processes
    on_gpu = torch.cuda.is_available() and str(settings.place.get("device") or "cuda").startswith("cuda")
    return _GPU_FRONTS if on_gpu and shares and (os.cpu_count() or 1) > _GPU_FRONTS + 1 else 0


def _check_ranks(names: Sequence[str]) -> None:
    """Refuse what processes of torchrun cannot share.

    Raises:
        InputError: there are several models, or several machines.
    """
    if len(names) > 1:
        raise InputError(f"Under torchrun one model is served, not {len(names)}. Start a server for each.")
    if world().size != world().local_size:
        raise InputError("A server runs on one machine. Start one on each, behind a load balancer.")


def _follow(name: str, settings: ServerSettings) -> None:
    """Compute this rank's part until the first rank, which has the front, says that it is over."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it to all ranks; the front finishes what runs first
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model = ServedModel(name, settings.home, **settings.place)
    watch = ServerMetrics().watch(model.name)
    Engine(model, settings.bounds, settings.memory, watch, Lockstep.of_ranks()).follow()


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket that has its address, but does not listen yet: who calls too early is refused at once.

    Args:
        host: the address.
        port: the port.
        shared: whether other sockets of this server have the same address.

    Raises:
        ConfigError: the address cannot be taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if shared:  # two servers could share an address, too: that it is free is seen without the option
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        found = socket.socket(family, kind, protocol)
        # On Windows SO_REUSEADDR would let two programs have one port.
        found.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR), 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(address)
    except OSError as error:
        raise ConfigError(f"{host}, port {port}, cannot be taken: {error.strerror}. Choose another --port.") from error
    return found


def _beside(first: socket.socket) -> socket.socket:
    """Another socket with the same address: the system spreads the clients over those that listen."""
    found = socket.socket(first.family, first.type, first.proto)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        found.setsockopt(socket.SOL_SOCKET, option, 1)
    found.bind(first.getsockname())
    return found


def _load(names: Sequence[str], settings: ServerSettings) -> dict[str, ServedModel]:
    if len(names) > 1 and settings.place.get("adapter"):
        raise InputError(f"Adapters go with one model, not with {len(names)}. Start a server for each model.")
    found: dict[str, ServedModel] = {}
    for name in names:
        model = ServedModel(name, settings.home, **settings.place)
        if model.name in found:
            raise InputError(f"Two models are called {model.name}. Serve one of them, or rename its folder.")
        found[model.name] = model
    return found


def _engines(models: dict[str, ServedModel], settings: ServerSettings, metrics: ServerMetrics) -> dict[str, Served]:
    """An engine for each model; those that write share the budget by the size of their keys and values."""
    sizes = {
        name: bytes_per_token(cast(GenerativeModel, model.model)) for name, model in models.items() if model.generates
    }
    budget = settings.memory
    if budget is None and len(sizes) > 1:
        budget = free_bytes(next(iter(models.values())).model.device)
    shares = memory_shares(sizes, budget)
    lockstep = Lockstep.of_ranks() if world().size > 1 else Lockstep()
    return {
        name: Served(model, Engine(model, settings.bounds, shares.get(name), metrics.watch(name), lockstep))
        for name, model in models.items()
    }


def _adapters(served: Mapping[str, Served]) -> dict[str, Served]:
    """What the adapters of models answer, by their names, in the engines of these.

    Raises:
        InputError: an adapter has the name of a model.
    """
    found = {each.name: Served(each, own.engine) for own in served.values() for each in own.model.adapted()}
    if twice := served.keys() & found.keys():
        raise InputError(f"An adapter and a model are both called {min(twice)}. Give the adapter another name.")
    return found


def memory_shares(sizes: Mapping[str, int], budget: int | None) -> dict[str, int | None]:
    """What each model may take of a budget: all hold the same number of tokens.

    Args:
        sizes: the bytes of a token's keys and values, for each model.
        budget: bytes; None leaves it to the model, which is the only one.
    """
    return {name: None if budget is None else budget * size // sum(sizes.values()) for name, size in sizes.items()}


async def _serve(
    desk: ModelDesk, front: FrontSettings, listeners: list[socket.socket], processes: bool, tell: Callable[[str], None]
) -> None:
    engines = list(dict.fromkeys(each.engine for each in desk.models.values()))

    def started() -> None:
        tell(address)

    def stopping() -> None:
        desk.pages.stopping = True

    host, port = listeners[0].getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        for engine in engines:
            await asyncio.to_thread(engine.start, asyncio.get_running_loop())
        fronts: HttpServer | FrontProcesses = (
            FrontProcesses(desk, front, started, stopping) if processes else HttpServer(desk, front, started, stopping)
        )
        watching = asyncio.ensure_future(_end_with_ranks(fronts, engines))
        await fronts.serve(sockets=listeners)
        watching.cancel()
    finally:
        for engine in engines:
            await asyncio.to_thread(engine.stop)
    failures = [engine.failure for engine in engines if engine.failure is not None]
    if failures:
        raise FlagAIError(f"A model has failed: {quoted(failures[0])}")


async def _end_with_ranks(server: "HttpServer | FrontProcesses", engines: Sequence[Engine]) -> None:
    """End the server when a rank of its model is gone: what starts it again has to start all ranks."""
    while world().size > 1:
        await asyncio.sleep(0.5)
        server.should_exit |= any(engine.failure is not None for engine in engines)
