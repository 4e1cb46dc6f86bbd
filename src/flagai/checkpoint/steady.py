"""Read a folder that another process may exchange meanwhile: all of it from one version, or again."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from flagai.checkpoint.files import CheckpointFiles, find_files
from flagai.errors import CheckpointError, FlagAIError
from flagai.system import open_descriptor

# A save exchanges folders in one step, so a second look is mostly enough.
_TRIES = 20
_PAUSE = 0.005
# Device, inode, size and time of the last change; None if there is no such file.
Stamp = tuple[int, ...] | None
Result = TypeVar("Result")


def read_steadily(
    path: Path, read: Callable[[CheckpointFiles], Result], files: CheckpointFiles | None = None
) -> Result:
    """Read weights, and what belongs to them, again and again until they did not change meanwhile.

    Files stay as they are once they are mapped, whatever happens to their names.

    Args:
        path: the folder of the model, or a weights file.
        read: opens the files, and reads from the same folder what else it needs.
        files: where the weights are, if the caller has looked already.

    Raises:
        CheckpointError: the files change without end, or cannot be read.
    """
    for attempt in range(_TRIES):
        folder = _stamp(path)
        before: list[Stamp] = []
        try:
            files = files or find_files(path)
            before = list(_stamps(path, files))
            result = read(files)
        except Exception as error:
            if folder == _stamp(path) and None not in before and _is_now(before, path, files):
                if isinstance(error, FlagAIError):
                    raise
                raise CheckpointError(  # the one place for what damaged files and disks can raise
                    f"{path} cannot be read ({type(error).__name__}: {error!s:.200}). "
                    "Download it again or check the disk."
                ) from error
        else:
            if _is_now(before, path, files):
                return result
        files = None
        time.sleep(_PAUSE * attempt)
    raise _restless(path)


def read_one_version(folder: Path, read: Callable[[], Result]) -> Result:
    """Read a folder in several steps, again and again until it was not exchanged for another one meanwhile.

    Args:
        folder: the folder; if it is absent, :obj:`read` may fetch it.
        read: reads what belongs together, such as weights and vocabulary.

    Raises:
        CheckpointError: the folder is exchanged without end.
    """
    for attempt in range(_TRIES):
        with _held(folder) as is_same:
            try:
                result = read()
            except Exception:
                if is_same():
                    raise
            else:
                if is_same():
                    return result
                del result  # before the next one takes its memory
        time.sleep(_PAUSE * attempt)
    raise _restless(folder)


@contextmanager
def _held(folder: Path) -> Iterator[Callable[[], bool]]:
    """Tell whether a folder is still the same; as long as it is open, no other one gets its number."""
    with ExitStack() as stack:
        with suppress(OSError, ValueError):  # Windows opens no folders
            opened = open_descriptor(folder, os.O_RDONLY)
            stack.callback(os.close, opened)
        begin = _stamp(folder)
        yield lambda: begin is None or _stamp(folder) in (None, begin)


def _restless(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} changed {_TRIES} times while it was read. Save less often, or save elsewhere and load from there."
    )


def _is_now(before: list[Stamp], path: Path, files: CheckpointFiles | None) -> bool:
    return files is None or not before or before == list(_stamps(path, files))


def _stamps(path: Path, files: CheckpointFiles) -> Iterator[Stamp]:
    yield _stamp(path)
    yield from (_stamp(file) for part in files.parts for file in part)
    yield from (_stamp(file) or () for file in files.beside)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    identity = (found.st_dev, found.st_ino)
    # Any file that comes or goes changes a folder's time.
    return identity if path.is_dir() else (*identity, found.st_size, found.st_mtime_ns)
