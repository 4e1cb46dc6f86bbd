"""Remove what was downloaded, and nothing else."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from flagai.errors import HubError
from flagai.hub.lock import read_beat
from flagai.hub.manifest import Entry, Manifest, heads_of, sha256_of
from flagai.hub.names import MANIFEST, WORK
from flagai.hub.policy import Policy

_LARGE = 1 << 30


def remove_downloaded(folder: Path) -> list[str]:
    """Remove the files of a model that were fetched, and what is left of unfinished downloads.

    Args:
        folder: the model's folder.

    Returns:
        The names of files that stay because somebody else put them there or changed them.

    Raises:
        HubError: nothing there was downloaded, or a download is running.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None and not (folder / WORK).exists():
        raise HubError(f"{folder} was not downloaded by flagai. Remove it yourself if you do not need it.")
    _check_idle(folder / WORK)
    try:
        _remove(folder, manifest)
    except OSError as error:
        raise HubError(f"{folder} cannot be removed: {error}. Remove it by hand.") from error
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _remove(folder: Path, manifest: Manifest | None) -> None:
    for name, entry in manifest.files.items() if manifest is not None else ():
        if not _is_as_fetched(folder / name, entry):
            continue
        (folder / name).unlink(missing_ok=True)
        for parent in (folder / name).parents:
            if parent == folder or folder not in parent.parents:
                break
            with suppress(OSError):
                parent.rmdir()
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder / WORK, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def _is_as_fetched(path: Path, entry: Entry) -> bool:
    """Whether nobody has changed a file; of very large ones only the size and the beginning are compared."""
    if not path.is_file() or path.stat().st_size != entry.size or heads_of(path) != entry.heads:
        return False
    return entry.size > _LARGE or sha256_of(path) == entry.sha256


def _check_idle(work: Path) -> None:
    first = read_beat(work)
    if first is None:
        return
    time.sleep(3 * Policy().heartbeat)
    second = read_beat(work)
    if second is not None and second.text != first.text:
        raise HubError(f"{second.where} is downloading into {work.parent}. Wait for it, or end it.")
