"""A job on a Ray cluster: Ray Data reads, distributes and writes, one actor for each device answers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flagai.checks import check_extra
from flagai.errors import InputError
from flagai.jobs.parts import split_format
from flagai.jobs.pool import Build
from flagai.jobs.rows import JSON_LINES, PARQUET, RawRow, fields_of
from flagai.jobs.streams import form_of

# Rows that an actor is given at a time.
_BATCH = 256
_READERS = {".csv": "read_csv", PARQUET: "read_parquet"}  # others as lines, of which one may be broken
_WRITERS = {JSON_LINES[0]: "write_json", ".csv": "write_csv", PARQUET: "write_parquet"}


class Answerer:
    """Answers batches of rows in an actor; a row that cannot be answered gets the reason as its ``error``.

    Args:
        build: makes what answers for a device.
        device: where to compute; nothing for the best one.
        form: of the files.
    """

    def __init__(self, build: Build, device: str, form: str) -> None:
        self._answering = build(device)
        self._lines = form not in _READERS
        self._understand = fields_of(Path(f"rows{form}"), self._answering.field)

    def __call__(self, table: Any) -> Any:
        """Answer a table of Arrow."""
        import pyarrow

        content = [row["text"].encode() if self._lines else row for row in table.to_pylist()]
        raw = [RawRow(number, each, 0) for number, each in enumerate(content, 1)]
        rows = self._answering.answer_rows(raw, self._understand)
        names = [*dict.fromkeys(name for row in rows for name in row), "error"]
        return pyarrow.Table.from_pylist([dict.fromkeys(names) | row for row in rows])


def run_ray(address: str, paths: Sequence[str], build: Build, devices: Sequence[str], out: str, form: str) -> None:
    """Run a job on a Ray cluster.

    Args:
        address: of the cluster, or "local" for this machine.
        paths: files, or whatever addresses Ray Data reads, all of one form.
        build: makes what answers; it must be picklable.
        devices: one actor for each; a GPU for each if they are GPUs.
        out: where the answers go.
        form: of the answers: jsonl, csv or parquet.

    Raises:
        InputError: the files are of several forms, or of one that Ray Data does not read or write, or ``out`` is there.
    """
    check_extra("ray", "ray", "pyarrow")
    import ray
    import ray.data as data

    forms = {form_of(Path(path)) for path in paths}
    ending, compression = split_format(form)
    if len(forms) > 1 or ending not in _WRITERS or compression or forms & {".tsv", ".json"}:
        raise InputError(
            f"--ray reads files of one form (.txt, .jsonl, .csv or .parquet; here {', '.join(sorted(forms))}) and "
            f"writes jsonl, csv or parquet (here {form})."
        )
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    try:
        own = forms.pop()
        # A blank line is a text, but no JSON.
        more = {} if own in _READERS else {"drop_empty_lines": own in JSON_LINES}
        rows: Any = getattr(data, _READERS.get(own, "read_text"))([_absolute(path) for path in paths], **more)
        gpus = 1 if any(device.startswith("cuda") for device in devices) else 0
        answers = rows.map_batches(
            Answerer,
            fn_constructor_args=(build, "cuda" if gpus else devices[0], own),
            batch_size=_BATCH,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=len(devices)),
            num_gpus=gpus,
        )
        getattr(answers, _WRITERS[ending])(_absolute(out), mode=data.SaveMode.ERROR)
    except ValueError as error:
        if "already exists" not in str(error):
            raise
        raise InputError(f"--out {out} is there already. Name a new folder: Ray would mix its files.") from error
    finally:
        ray.shutdown()


def _absolute(path: str) -> str:
    """A path that actors understand, too, which run elsewhere; an address as it is."""
    return path if is_address(path) else os.path.abspath(path)


def is_address(path: str) -> bool:
    """Whether a path is one of another file system, such as s3://bucket/folder."""
    return "://" in path
