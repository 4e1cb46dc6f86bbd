"""``flagai run``: a task over files of any size."""

import glob
import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from flagai import settings
from flagai.cli.command import command
from flagai.cli.input import SAMPLES
from flagai.cli.output import ASKED, SECONDS_BETWEEN_LINES
from flagai.errors import InputError
from flagai.jobs.answering import Answering
from flagai.jobs.folder import JobDescription, OutputFolder
from flagai.jobs.job import PartReport, Totals, missing, position_of, run_here
from flagai.jobs.parts import Part, cut, split_format
from flagai.jobs.pool import run_pool
from flagai.jobs.rows import fields_of, read_rows

TASKS = ("title", "poem", "write", "fill", "ner", "classify", "match", "embed")
_SAMPLE_ROWS = 100
# Cores for each process, where a CPU is split.
_CORES = 4


@command()
def run(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help=f"{', '.join(TASKS)}; its own options follow (flagai TASK --help).")],
    files: Annotated[
        list[str],
        typer.Option(
            "--in",
            help="Input files or patterns: .txt (one text per line), .jsonl, .csv, .tsv, .parquet; also .gz and .zst.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Output directory; that of an interrupted job continues it.")],
    form: Annotated[
        str, typer.Option("--format", help="Output format: jsonl, csv, tsv or parquet; also jsonl.gz, csv.zst, ...")
    ] = "jsonl",
    rows: Annotated[int, typer.Option(min=1, help="Input rows per output part.")] = 1000,
    devices: Annotated[
        str | None,
        typer.Option(help="One process per device: all, or a list such as cuda:0,cuda:1. Default: one process."),
    ] = None,
    ray: Annotated[str | None, typer.Option(help="Run on a Ray cluster: its address, or local.")] = None,
) -> None:
    """Run a task over large files; an interrupted job resumes when the command is repeated.

    Rows that cannot be answered are listed in PART.errors.jsonl with their reason. A job that was stopped at any moment
    continues where it was when the command is repeated; its files are those of an undisturbed one.
    """
    if task not in TASKS:
        raise InputError(f"{task!r} is not a task of flagai run. Known: {', '.join(TASKS)}.")
    split_format(form)
    if ray is not None:
        _run_ray(ray, task, context.args, files, out, form, devices)
        return
    paths = _files(files)
    build = partial(build_answering, task, tuple(context.args), _samples(paths[0], task, context.args))
    folder = OutputFolder(Path(out), JobDescription(task, context.args, paths, form, rows))
    rank, world = settings.rank(), settings.world_size()
    with folder.exclusive(rank):
        parts = (part for part in cut(paths, rows) if part.number % world == rank)
        _work_off(_Parts(parts, folder), build, _devices(devices), folder, _JobProgress(paths, world))


def _run_ray(
    address: str, task: str, arguments: Sequence[str], files: Sequence[str], out: str, form: str, devices: str | None
) -> None:
    from flagai.jobs.ray_data import is_address, run_ray

    remote = [name for name in files if is_address(name)]
    local = _files([name for name in files if not is_address(name)])
    samples = _samples(local[0], task, arguments) if local else ()
    build = partial(build_answering, task, tuple(arguments), samples)
    named = _devices(devices) if devices in (None, "all") else str(devices).split(",")  # of the cluster's machines
    run_ray(address, [*remote, *map(str, local)], build, named, out, form)


class _Parts:
    """The parts of a job that are missing, and those that were found."""

    def __init__(self, parts: Iterator[Part], folder: OutputFolder) -> None:
        self.found: list[Part] = []
        self.missing = missing(parts, folder, self._skip)

    def _skip(self, part: Part) -> None:
        self.found.append(Part(part.path, part.name, part.number, part.rows[-1:]))


def _work_off(
    parts: _Parts, build: Any, devices: Sequence[str], folder: OutputFolder, progress: "_JobProgress"
) -> None:
    first = next(parts.missing, None)
    if first is not None:
        rest = chain([first], parts.missing)
        if len(devices) == 1:
            reports = run_here(rest, build(devices[0]), folder)
        else:
            threads = max((os.cpu_count() or 1) // len(devices), 1)
            reports = run_pool(rest, build, devices, threads, folder)
        for report in reports:
            progress.add(report)
            progress.skip(parts.found)
    progress.skip(parts.found)
    progress.end(folder)


class _JobProgress:
    """Says how far a job is: rows, tokens per second and the time that is left."""

    def __init__(self, paths: Sequence[Path], world: int) -> None:
        self.totals = Totals()
        self._bytes = max(sum(path.stat().st_size for path in paths), 1)
        self._done: dict[Path, int] = {}
        self._begun: int | None = None
        self._world = world
        self._told = time.monotonic()

    def add(self, report: PartReport) -> None:
        """Count a part that has been written."""
        self.totals.add(report)
        self._reached(Path(report.path), report.position)
        if time.monotonic() - self._told >= (1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES):
            self._told = time.monotonic()
            self._tell()

    def skip(self, parts: list[Part]) -> None:
        """Count parts that were there, and empty the list."""
        for part in parts:
            self.totals.add(PartReport(written=False))
            self._reached(part.path, position_of(part))
        parts.clear()

    def _reached(self, path: Path, position: int) -> None:
        self._done[path] = max(self._done.get(path, 0), position)

    def _tell(self) -> None:
        totals, seconds = self.totals, self.totals.seconds
        share = min(sum(self._done.values()) / self._bytes, 1.0)
        left = seconds / share * (1 - share) if share else 0.0
        line = (
            f"{totals.rows} rows, {totals.failed} failed, {totals.tokens / seconds:.0f} tokens/s, "
            f"{100 * share:.0f} %, {_duration(left)} left"
        )
        typer.echo(f"\r{line}\033[K" if sys.stderr.isatty() else line, nl=not sys.stderr.isatty(), err=True)

    def end(self, folder: OutputFolder) -> None:
        """Say what has been done."""
        totals = self.totals
        before = f", {totals.skipped} of them before" if totals.skipped else ""
        failed = f"; {totals.failed} rows failed (*.errors.jsonl)" if totals.failed else ""
        if sys.stderr.isatty():
            typer.echo("\r\033[K", nl=False, err=True)
        typer.echo(
            f"{totals.parts} parts in {folder.folder}{before}: {totals.rows} rows in {_duration(totals.seconds)}, "
            f"{totals.tokens / max(totals.seconds, 1e-9):.0f} tokens/s{failed}",
            err=True,
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def build_answering(task: str, arguments: Sequence[str], samples: Sequence[tuple[str, Any]], device: str) -> Answering:
    """What answers texts as a command does: its model, on a device.

    Args:
        task: the command.
        arguments: its options.
        samples: places and fields of a few rows, by whose language a default model may be chosen.
        device: where to compute; nothing for the best one.

    Raises:
        InputError: an option is wrong, or none of the rows can be answered.
    """
    app: Any = importlib.import_module("flagai.cli").app  # it has this command
    asked: list[Answering] = []
    tokens = SAMPLES.set(samples), ASKED.set(asked)
    try:
        place = ["--device", device] if device else []
        app([task, *arguments, *place], standalone_mode=False, prog_name="flagai")
    finally:
        SAMPLES.reset(tokens[0])
        ASKED.reset(tokens[1])
    _check_samples(asked[0], samples)
    return asked[0]


def _check_samples(answering: Answering, samples: Sequence[tuple[str, Any]]) -> None:
    """Refuse a job whose first rows all fail: a wrong --field, most likely.

    Raises:
        InputError: what the first row lacks.
    """
    errors: list[InputError] = []
    for place, fields in samples:
        try:
            answering.read(place, fields)
        except InputError as error:
            errors.append(error)
    if errors and len(errors) == len(samples):
        raise errors[0]


def _files(patterns: Sequence[str]) -> list[Path]:
    """The files of names and patterns, each once, in the order of their names.

    Raises:
        InputError: one names no file.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        names = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        files = [Path(name) for name in names if os.path.isfile(name)]
        if not files:
            raise InputError(f"--in {pattern} names no file. Give files, or a pattern such as 'data/*.jsonl'.")
        found |= dict.fromkeys(files)
    return list(found)


def _samples(path: Path, task: str, arguments: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """The first rows of a file that can be read."""
    names = [after for name, after in pairwise(arguments) if name == "--field"]
    read, found = fields_of(path, names[-1] if names else "title" if task == "poem" else "text"), []
    for row in islice(read_rows(path), _SAMPLE_ROWS):
        try:
            found.append((f"{path}, line {row.number}", read(row)))
        except InputError:
            continue
    return tuple(found)


def _devices(names: str | None) -> list[str]:
    """The devices that --devices names.

    Raises:
        InputError: there is none of this name.
    """
    if names is None:
        if settings.world_size() > 1:
            from flagai.model.device import best_device

            kind = best_device().type
            return ["cpu" if kind == "cpu" else f"{kind}:{settings.local_rank()}"]
        return [""]
    if names != "all":
        from flagai.model.device import read_device

        found = [name.strip() for name in names.split(",")]
        for name in found:
            read_device(name)
        return found
    from flagai.model.device import all_devices

    return all_devices()[1:] or ["cpu"] * max((os.cpu_count() or 1) // _CORES, 1)
