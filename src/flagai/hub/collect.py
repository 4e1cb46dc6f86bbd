"""Bring the files of a request together, source after source, and let them appear all at once."""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flagai.errors import HubError
from flagai.hub.errors import CancelledError, IncompleteError, UnreachableError
from flagai.hub.listing import Listing, list_files, report, total_size
from flagai.hub.local_state import COMMIT, local_state, one_model, pending
from flagai.hub.lock import Lock
from flagai.hub.manifest import Manifest, ManifestEntry, git_sha1_of, sha256_of
from flagai.hub.names import MANIFEST, WORK, public
from flagai.hub.progress import Advance, progress, readable
from flagai.hub.request import DownloadRequest
from flagai.hub.sources import RemoteFile
from flagai.hub.transfer import DownloadedFile, download_file
from flagai.hub.versions import agree, changed, check_shards, local_version
from flagai.hub.web import Web
from flagai.system import allocated, is_busy, patiently, sync

logger = logging.getLogger(__name__)
_ROUNDS = 3
_INDEX = ".index.json"
_STAGED = "staged.json"


class Collector:
    """Does the work of one request under its lock.

    Files that are whole and verified wait in ``.flagai/files``; what they are is written in ``.flagai/staged.json``.
    When all are there, ``.flagai/commit.json`` is written, which is the manifest to be, and they move to their places.
    A process that is ended in between is followed by one that goes on at the same point.
    """

    def __init__(self, request: DownloadRequest, lock: Lock) -> None:
        self.request, self.lock = request, lock
        self.web = Web(request.policy, stop=lock.lost)
        self.work = request.folder / WORK
        self.files, self.parts = self.work / "files", self.work / "parts"
        self.staged = Manifest(request.model.name, "")  # the files that wait
        self.base: dict[str, ManifestEntry] = {}  # what earlier downloads have brought to the folder
        self.known: dict[str, ManifestEntry] = {}  # of these, what stays as it is
        self.failures: list[tuple[str, str]] = []

    def run(self) -> None:
        """Fetch what is missing.

        Raises:
            HubError: no source has everything.
        """
        request = self.request
        if pending(request.folder):
            self._move_in()
            one_model(request, Manifest.read(request.folder / MANIFEST))
            if not request.force and local_state(request.folder, request.wanted).complete:
                return
        base = Manifest.read(request.folder / MANIFEST)
        self.base = {} if base is None else base.files
        self._read_staged()
        for spec in request.specs():
            try:
                listing = list_files(request, spec, self.web, self._pin(spec, self.staged, base))
                self._begin(listing)
                whole = self._of_one_version(listing)
            except CancelledError:
                raise
            except HubError as error:
                self._note(spec, error)
                continue
            if whole:
                self._commit(listing)
                return
        raise HubError(report(request, self.failures))

    def _read_staged(self) -> None:
        """Find what an earlier attempt has brought."""
        staged = Manifest.journal(self.work / _STAGED)
        if staged is not None and staged.name == self.staged.name:
            whole = {name: entry for name, entry in staged.files.items() if _size(self.files / name) == entry.size}
            self.staged = replace(staged, files=whole)

    def _pin(self, spec: str, *manifests: Manifest | None) -> str | None:
        """The revision that earlier files came in, so that all files are of one."""
        earlier = [each for each in manifests if each is not None and each.files and each.source == public(spec)]
        return earlier[0].revision if earlier and not self.request.force else None

    def _begin(self, listing: Listing) -> None:
        """Keep of what is there only what belongs to a listing."""
        self.known = {} if self.request.force else dict(self.base)
        entries = self.staged.files
        unproven = [file.name for file in listing.files if file.unproven and file.name in entries]
        self._drop(name for name in unproven if entries[name].version is None)  # may be of another version by now
        listed = {file.name for file in listing.files}
        if not agree(listing, {**self.known, **self.staged.files}, self.files) or not listed >= set(self.staged.files):
            shutil.rmtree(self.files, ignore_errors=True)
            (self.work / _STAGED).unlink(missing_ok=True)
            self.staged, self.known = Manifest(self.request.model.name, ""), {}
        self.staged = replace(self.staged, source=listing.spec, revision=listing.revision)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            (self.files / name).unlink(missing_ok=True)
            self.staged = replace(self.staged, files={n: e for n, e in self.staged.files.items() if n != name})

    def _of_one_version(self, listing: Listing) -> bool:
        """Bring all files, and those anew that change at the source meanwhile; tell whether all came."""
        for _ in range(_ROUNDS):
            if not self._collect(listing):
                return False
            other = changed(listing, {**self.known, **self.staged.files}, self.web)
            if not other:
                return True
            self._drop(other)
            self.known = {name: entry for name, entry in self.known.items() if name not in other}
        raise HubError("its files change faster than they can be fetched")

    def _collect(self, listing: Listing) -> bool:
        """Bring the files of a listing that are not there; tell whether all came."""
        missing = [file for file in listing.files if file.name not in self.staged.files and not self._keep(file)]
        for file in listing.files:
            staged = file.name in self.staged.files
            here = self.files / file.name if staged else file.path or self.request.folder / file.name
            self._check_index(listing, file.name, here)
        self._check_space(missing)
        total, name = total_size(missing), self.staged.name
        logger.info("%s: fetching %d files, %s, from %s", name, len(missing), readable(total), listing.spec)
        before = len(self.failures)
        with progress(name, total) as show:

            def advance(count: int) -> None:
                show(count)
                self.lock.advance(count)

            for file in sorted(missing, key=lambda file: file.size or 0):
                try:
                    entry = self._bring(file, listing, advance)
                    self._check_index(listing, file.name, self.files / file.name)
                except CancelledError:
                    raise
                except HubError as error:
                    self._note(listing.spec, error)
                    if isinstance(error, UnreachableError | IncompleteError):
                        break
                    continue
                self.staged = self.staged.with_file(file.name, entry)
                self.staged.write(self.work / _STAGED)
        return len(self.failures) == before

    def _check_index(self, listing: Listing, name: str, here: Path) -> None:
        """Make sure that the source has what an index names, if the file is one and is here already."""
        if name.endswith(_INDEX) and here.is_file():
            check_shards(here, listing)

    def _keep(self, file: RemoteFile) -> bool:
        """Whether a file in the folder stays as it is; forced, what is found out about it joins what is known."""
        path = self.request.folder / file.name
        if not path.is_file():
            return False
        if not self.request.force and file.name in self.known:
            return not self.known[file.name].was_cut(path)
        if not self.request.force:  # what is not ours, or not as it was fetched, is the user's
            entry = self.base.get(file.name)
            return entry is None or not (entry.was_cut(path) or sha256_of(path, self.lock.advance) == entry.sha256)
        if file.sha256 is None or file.sha256 != sha256_of(path, self.lock.advance):
            return False
        self.known[file.name] = ManifestEntry.of(path, file.sha256, self.staged.source)
        return True

    def _bring(self, file: RemoteFile, listing: Listing, advance: Advance) -> ManifestEntry:
        """Bring one file to the staged ones."""
        target = self.files / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        came = None
        if file.path is not None:
            try:
                came = self._from_here(file, file.path, target, advance)
            except HubError as error:
                if file.locate is None:
                    raise
                logger.warning("%s; fetching it instead", error)
        if came is None:
            source = f"{listing.spec} {listing.revision}"
            came = download_file(file, source, target, self.parts / f"{file.name}.part", self.web, advance)
        return ManifestEntry.of(target, came.sha256, self.staged.source, came.version)

    def _from_here(self, file: RemoteFile, path: Path, target: Path, advance: Advance) -> DownloadedFile:
        """Copy a file of this machine. A link would share its bytes: who rewrites one would destroy the other."""
        target.unlink(missing_ok=True)
        version = local_version(path)
        shutil.copyfile(path.resolve(), target)
        sync(target)  # before staged.json says that it is there
        size, sha256 = target.stat().st_size, sha256_of(target, advance)
        git_sha1 = None if file.git_sha1 is None else git_sha1_of(target)
        for what, found, right in (
            ("size", size, file.size), ("sha256", sha256, file.sha256), ("git sha1", git_sha1, file.git_sha1)
        ):  # fmt: skip
            if right is not None and found != right:
                target.unlink()
                raise HubError(f"{path} is damaged: its {what} is {found} instead of {right}")
        return DownloadedFile(sha256, version)

    def _check_space(self, missing: list[RemoteFile]) -> None:
        needed = sum(file.size or 0 for file in missing)
        for file in missing:
            part = self.parts / f"{file.name}.part"
            if part.exists():
                needed -= min(allocated(part), file.size or 0)
        free = shutil.disk_usage(self.work).free
        if needed > free:
            raise HubError(
                f"needs {readable(needed)}, but the disk of {self.request.folder} has {readable(free)}. Make room, or "
                "choose another download_path"
            )

    def _note(self, spec: str, error: HubError) -> None:
        self.failures.append((public(spec), str(error)))
        logger.info("%s: %s", public(spec), error)  # the error at the end says it

    def _commit(self, listing: Listing) -> None:
        if not self.lock.still_mine():
            raise CancelledError("another process has taken over")
        files = {**self.known, **self.staged.files}
        replace(self.staged, listing=listing.names, files=files).write(self.work / COMMIT)
        self._move_in()

    def _move_in(self) -> None:
        """Give all files their places, the configuration last, because others look for it first."""
        manifest = Manifest.journal(self.work / COMMIT)
        if manifest is None:
            (self.work / COMMIT).unlink(missing_ok=True)
            return
        for name in sorted(manifest.files, key=lambda name: (name == "config.json", name)):
            if (self.files / name).is_file():
                target = self.request.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _move(self.files / name, target)
        manifest.write(self.request.folder / MANIFEST)
        for folder in (self.files, self.parts):
            shutil.rmtree(folder, ignore_errors=True)
        for name in (COMMIT, _STAGED, "failed.json", "id"):
            (self.work / name).unlink(missing_ok=True)


def _move(path: Path, target: Path) -> None:
    """Give a file its place.

    Raises:
        HubError: the file that it replaces is open, on Windows.
    """
    try:
        patiently(lambda: path.replace(target))
    except PermissionError as error:
        if not is_busy(error):
            raise
        raise HubError(
            f"{target} is open, and Windows replaces no such file. End the program that has it open, or that loaded a "
            "model from it without mmap=False; then repeat the download, which goes on from here."
        ) from error


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
