"""Make sure that a model's files are in its folder: the one door to everything in this package."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flagai import settings
from flagai.catalog.card import Card
from flagai.errors import HubError, OfflineError
from flagai.hub.local_state import LocalState, local_state, one_model, pending
from flagai.hub.lock import Lock, once, read_beat
from flagai.hub.manifest import Manifest, ManifestEntry, heads_of, sha256_of
from flagai.hub.names import EVERYTHING, MANIFEST, WORK, public
from flagai.hub.policy import Policy
from flagai.hub.request import DownloadRequest, UncatalogedModel

if TYPE_CHECKING:
    from flagai.hub.listing import Listing

# Of larger files only the size and the beginning are compared before they are removed.
_LARGE = 1 << 30


def ensure(
    model: Card | UncatalogedModel | str,
    folder: str | Path | None = None,
    *,
    wanted: Sequence[str] = EVERYTHING,
    sources: Sequence[str] | None = None,
    force: bool = False,
    policy: Policy | None = None,
) -> Path:
    """Make sure that the files of a model are in a folder, and return the folder.

    If they are, nothing else happens: no connection is opened. If not, one process per folder fetches what is missing,
    source after source, and the others wait. Files take their names only when all of them are whole and verified.

    Args:
        model: a card, or a source such as "hf:owner/name@revision".
        folder: the model's folder; default: the model's name in the model directory.
        wanted: any of "config", "weights", "tokenizer", names of files, or patterns of names.
        sources: where to look, instead of the model's own sources.
        force: ask the source again, and replace files that differ from what it has.
        policy: how patient to be.

    Raises:
        OfflineError: something is missing, and offline mode forbids to fetch it.
        HubError: no source has everything; the message lists what each of them said.

    Returns:
        The folder.

    Example:
        >>> ensure("hf:THUDM/glm-large-chinese", "checkpoints/GLM-large-ch", wanted=["config", "tokenizer"])
    """
    request = _request(model, folder, wanted, sources, force, policy)
    state = LocalState(missing=["everything"]) if force else _surveyed(request)
    one_model(request, state.manifest)
    if state.complete:
        return request.folder
    if settings.offline() and not pending(request.folder):
        _check_offline(request, state)
    _fill(request)
    with suppress(OSError):
        (request.folder / WORK).rmdir()
    return request.folder


def _surveyed(request: DownloadRequest) -> LocalState:
    with _explained(request.folder, "cannot be read", "Allow it, or choose another folder."):
        return local_state(request.folder, request.wanted)


@contextmanager
def _explained(folder: Path, what: str, cure: str) -> Iterator[None]:
    """Say which folder an error of the system is about."""
    try:
        yield
    except HubError:
        raise
    except OSError as error:
        raise HubError(f"{folder} {what}: {error}. {cure}") from error


def _fill(request: DownloadRequest) -> None:
    from flagai.hub.collect import Collector

    asked = not request.force

    def done() -> bool:
        if not asked:
            return False
        state = local_state(request.folder, request.wanted)
        one_model(request, state.manifest)  # another process may have brought another model meanwhile
        return state.complete

    def job(lock: Lock) -> None:
        nonlocal asked
        Collector(request, lock).run()
        asked = True

    with _explained(request.folder, "cannot be filled", "Make room, or choose another place."):
        once(request.folder / WORK, job, done, request.policy)


def look(
    model: Card | UncatalogedModel | str,
    folder: str | Path | None = None,
    *,
    wanted: Sequence[str] = EVERYTHING,
    sources: Sequence[str] | None = None,
) -> "Listing | None":
    """Find out what :func:`ensure` would fetch from; nothing is written.

    Args:
        model: a card, or a source.
        folder: the model's folder.
        wanted: as for :func:`ensure`.
        sources: as for :func:`ensure`.

    Returns:
        What the first source that has everything offers, or None if nothing is missing.

    Raises:
        HubError: no source has everything.
    """
    from flagai.hub.listing import first_listing

    request = _request(model, folder, wanted, sources)
    state = _surveyed(request)
    if state.complete:
        return None
    if settings.offline():
        _check_offline(request, state)
    return first_listing(request)


def _request(
    model: Card | UncatalogedModel | str,
    folder: str | Path | None,
    wanted: Sequence[str],
    sources: Sequence[str] | None,
    force: bool = False,
    policy: Policy | None = None,
) -> DownloadRequest:
    model = UncatalogedModel.of(model) if isinstance(model, str) else model
    folder = Path(folder) if folder is not None else settings.home() / model.name
    sources = tuple(sources if sources is not None else model.sources)
    return DownloadRequest(model, folder, tuple(wanted), sources, force, policy or Policy())


def _check_offline(request: DownloadRequest, state: LocalState) -> None:
    """Offline, only what is on this machine can help."""
    from flagai.hub.listing import first_listing

    try:
        first_listing(request)
    except HubError as error:
        lacking = ", ".join([*state.missing, *state.damaged])
        raise OfflineError(
            f"{request.model.name} is not complete in {request.folder} (missing: {lacking}), and offline mode is on. "
            f"Put the files there by hand, from {' or '.join(map(public, request.sources)) or 'wherever they are'}, or "
            f"unset FLAGAI_OFFLINE and HF_HUB_OFFLINE.{request.advice()}"
        ) from error


def remove_downloaded(folder: Path) -> list[str]:
    """Remove the files of a model that were fetched into a folder, and what is left of unfinished downloads.

    Returns:
        The names of files that stay because the user put them there or changed them.

    Raises:
        HubError: nothing there was downloaded, or a download is running.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None and not (folder / WORK).exists():
        raise HubError(f"{folder} was not downloaded by flagai. Remove it yourself if you do not need it.")
    _check_idle(folder / WORK)
    with _explained(folder, "cannot be removed", "Remove it by hand."):
        _remove(folder, manifest)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _remove(folder: Path, manifest: Manifest | None) -> None:
    for name, entry in manifest.files.items() if manifest is not None else ():
        if not _is_as_fetched(folder / name, entry):
            continue
        (folder / name).unlink(missing_ok=True)
        for parent in list((folder / name).relative_to(folder).parents)[:-1]:
            with suppress(OSError):
                (folder / parent).rmdir()
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder / WORK, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def _is_as_fetched(path: Path, entry: ManifestEntry) -> bool:
    """Whether a file is unchanged; of very large ones only the size and the beginning are compared."""
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
