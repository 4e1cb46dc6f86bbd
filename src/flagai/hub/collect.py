"""Bring the files of a request together, source after source, and let them appear all at once."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from flagai.errors import HubError
from flagai.hub.download import download_file
from flagai.hub.errors import CancelledError, IncompleteError, UnreachableError
from flagai.hub.listing import Listing, list_files, report
from flagai.hub.local_state import COMMIT, local_state, one_model, pending
from flagai.hub.lock import Lock
from flagai.hub.manifest import Manifest, ManifestEntry, git_sha1_of, sha256_of
from flagai.hub.names import MANIFEST, WORK, public, recorded
from flagai.hub.progress import Advance, progress, readable
from flagai.hub.request import DownloadRequest
from flagai.hub.sources import RemoteFile
from flagai.hub.transfer import DownloadedFile
from flagai.hub.versions import agree, changed, check_shards, local_version
from flagai.hub.web import Web

logger = logging.getLogger(__name__)
_ROUNDS = 3
_INDEX = ".index.json"


class Collector:
    """Does the work of one request under its lock.

    Files that are whole and verified wait in ``.flagai/files``; what they are is written in ``.flagai/staged.json``.
    When all are there, ``.flagai/commit.json`` is written, which is the manifest to be, and they move to their places.
    A process that is ended in between is followed by one that goes on at the same point.

    Args:
        request: what is asked for.
        lock: held by the caller.
    """

    def __init__(self, request: DownloadRequest, lock: Lock) -> None:
        self.request = request
        self.lock = lock
        self.web = Web(request.policy, stop=lock.lost)
        self.work = request.folder / WORK
        self.files = self.work / "files"
        self.failures: list[tuple[str, str]] = []

    def run(self) -> None:
        """Fetch what is missing.

        Raises:
            HubError: no source has everything.
        """
        if pending(self.request.folder):
            self._move_in()
            one_model(self.request, Manifest.read(self.request.folder / MANIFEST))
            if not self.request.force and local_state(self.request.folder, self.request.wanted).complete:
                return
        base = Manifest.read(self.request.folder / MANIFEST)
        staged = self._staged()
        for spec in self.request.specs():
            try:
                listing = list_files(self.request, spec, self.web, self._pin(spec, staged, base))
            except CancelledError:
                raise
            except HubError as error:
                self._note(spec, error)
                continue
            known = dict(base.files) if base is not None and not self.request.force else {}
            staged = self._provable(staged, listing)
            present = {**known, **staged.files}
            if not agree(listing, present, self.files) or not set(staged.files) <= {f.name for f in listing.files}:
                staged, known = self._clear(), {}
            staged = replace(staged, source=recorded(spec), revision=listing.revision)
            staged, whole = self._of_one_version(listing, staged, known)
            if whole:
                files = {**known, **staged.files}
                self._commit(replace(staged, listing=listing.names, files=files))
                return
        raise HubError(report(self.request, self.failures))

    def _of_one_version(
        self, listing: Listing, staged: Manifest, known: dict[str, ManifestEntry]
    ) -> tuple[Manifest, bool]:
        """Bring all files, and those anew that change at the source meanwhile; tell whether all came."""
        for _ in range(_ROUNDS):
            staged, whole = self._collect(listing, staged, known)
            if not whole:
                return staged, False
            try:
                other = changed(listing, {**known, **staged.files}, self.web)
            except CancelledError:
                raise
            except HubError as error:
                self._note(listing.spec, error)
                return staged, False
            if not other:
                return staged, True
            for name in other:
                known.pop(name, None)
            staged = self._without(staged, other)
        self._note(listing.spec, HubError("its files change faster than they can be fetched"))
        return staged, False

    def _provable(self, staged: Manifest, listing: Listing) -> Manifest:
        """What an earlier attempt has brought, without files that may be of another version by now."""
        doubtful = [
            file.name
            for file in listing.files
            if file.unproven and (entry := staged.files.get(file.name)) is not None and entry.version is None
        ]
        return self._without(staged, doubtful)

    def _without(self, staged: Manifest, names: list[str]) -> Manifest:
        for name in names:
            (self.files / name).unlink(missing_ok=True)
        return replace(staged, files={name: entry for name, entry in staged.files.items() if name not in names})

    def _collect(self, listing: Listing, staged: Manifest, known: dict[str, ManifestEntry]) -> tuple[Manifest, bool]:
        """Bring the files of a listing that are not there; tell whether all came."""
        missing = [
            file for file in listing.files if file.name not in staged.files and not self._keep(file, known, listing)
        ]
        try:
            for file in listing.files:
                if file.name.endswith(_INDEX) and (here := self._place_of(file, staged)) is not None:
                    check_shards(here, listing)
            self._check_space(missing)
        except HubError as error:
            self._note(listing.spec, error)
            return staged, False
        total = replace(listing, files=missing).total
        logger.info("%s: fetching %d files, %s, from %s", staged.name, len(missing), readable(total), listing.spec)
        before = len(self.failures)
        with progress(staged.name, total) as show:

            def advance(count: int) -> None:
                show(count)
                self.lock.advance(count)

            for file in sorted(missing, key=lambda file: file.size or 0):
                try:
                    entry = self._bring(file, listing, advance)
                    if file.name.endswith(_INDEX):
                        check_shards(self.files / file.name, listing)
                except CancelledError:
                    raise
                except HubError as error:
                    self._note(listing.spec, error)
                    if isinstance(error, UnreachableError | IncompleteError):
                        break
                    continue
                staged = staged.with_file(file.name, entry)
                staged.write(self.work / "staged.json")
        return staged, len(self.failures) == before

    def _place_of(self, file: RemoteFile, staged: Manifest) -> Path | None:
        """Where a file is already, if it is."""
        here = self.files / file.name if file.name in staged.files else file.path or self.request.folder / file.name
        return here if here.is_file() else None

    def _keep(self, file: RemoteFile, known: dict[str, ManifestEntry], listing: Listing) -> bool:
        """Whether a file in the folder stays as it is; forced, what is found out about it joins what is known."""
        path = self.request.folder / file.name
        if not path.is_file():
            return False
        if not self.request.force and file.name in known:
            return not known[file.name].was_cut(path)
        if not self.request.force:  # what is not ours, or not as it was fetched, is the user's
            entry = self._base_files().get(file.name)
            return entry is None or not (entry.was_cut(path) or sha256_of(path, self.lock.advance) == entry.sha256)
        if file.sha256 is None or file.sha256 != sha256_of(path, self.lock.advance):
            return False
        known[file.name] = ManifestEntry.of(path, file.sha256, recorded(listing.spec))
        return True

    def _base_files(self) -> dict[str, ManifestEntry]:
        base = Manifest.read(self.request.folder / MANIFEST)
        return base.files if base is not None else {}

    def _bring(self, file: RemoteFile, listing: Listing, advance: Advance) -> ManifestEntry:
        """Bring one file to the staged ones."""
        target = self.files / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.path is not None:
            try:
                came = self._from_here(file, file.path, target, advance)
            except HubError as error:
                if file.locate is None:
                    raise
                logger.warning("%s; fetching it instead", error)
                file = replace(file, path=None)
        if file.path is None:
            origin = f"{listing.spec} {listing.revision}"
            came = download_file(file, origin, target, self.work / "parts" / f"{file.name}.part", self.web, advance)
        return ManifestEntry.of(target, came.sha256, recorded(listing.spec), came.version)

    def _from_here(self, file: RemoteFile, path: Path, target: Path, advance: Advance) -> DownloadedFile:
        """Copy a file of this machine. A link would share its bytes: who rewrites one would destroy the other."""
        target.unlink(missing_ok=True)
        version = local_version(path)
        shutil.copyfile(path.resolve(), target)
        with target.open("rb") as copy:
            os.fsync(copy.fileno())  # before staged.json says that it is there
        size, sha256 = target.stat().st_size, sha256_of(target, advance)
        facts: list[tuple[str, object, object]] = [("size", size, file.size), ("sha256", sha256, file.sha256)]
        if file.git_sha1 is not None:
            facts.append(("git sha1", git_sha1_of(target), file.git_sha1))
        for what, found, right in facts:
            if right is not None and found != right:
                target.unlink()
                raise HubError(f"{path} is damaged: its {what} is {found} instead of {right}")
        return DownloadedFile(sha256, version)

    def _check_space(self, missing: list[RemoteFile]) -> None:
        parts = self.work / "parts"
        needed = sum(file.size or 0 for file in missing)
        for file in missing:
            part = parts / f"{file.name}.part"
            if part.exists():
                needed -= min(part.stat().st_blocks * 512, file.size or 0)
        free = shutil.disk_usage(self.work).free
        if needed > free:
            raise HubError(
                f"needs {readable(needed)}, but the disk of {self.request.folder} has {readable(free)}. Make room, or "
                "choose another download_path"
            )

    def _pin(self, spec: str, *manifests: Manifest | None) -> str | None:
        """The revision that earlier files came in, so that all files are of one."""
        if self.request.force:
            return None
        for manifest in manifests:
            if manifest is not None and manifest.files and manifest.source == recorded(spec):
                return manifest.revision
        return None

    def _staged(self) -> Manifest:
        """What an earlier attempt has brought."""
        empty = Manifest(self.request.model.name, "")
        staged = Manifest.journal(self.work / "staged.json")
        if staged is None or staged.name != self.request.model.name:
            return empty
        whole = {name: entry for name, entry in staged.files.items() if _size(self.files / name) == entry.size}
        return replace(staged, files=whole)

    def _clear(self) -> Manifest:
        """Throw away what is staged: the next source has another version of it."""
        shutil.rmtree(self.files, ignore_errors=True)
        (self.work / "staged.json").unlink(missing_ok=True)
        return Manifest(self.request.model.name, "")

    def _note(self, spec: str, error: HubError) -> None:
        self.failures.append((public(spec), str(error)))
        logger.info("%s: %s", public(spec), error)  # the error at the end says it

    def _commit(self, manifest: Manifest) -> None:
        if not self.lock.still_mine():
            raise CancelledError("another process has taken over")
        manifest.write(self.work / COMMIT)
        self._move_in()

    def _move_in(self) -> None:
        """Give all files their places, the configuration last, because others look for it first."""
        manifest = Manifest.journal(self.work / COMMIT)
        if manifest is None:
            (self.work / COMMIT).unlink(missing_ok=True)
            return
        for name in sorted(manifest.files, key=lambda name: (name == "config.json", name)):
            file = self.files / name
            if file.is_file():
                target = self.request.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        manifest.write(self.request.folder / MANIFEST)
        for name in ("files", "parts"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        for name in (COMMIT, "staged.json", "failed.json", "id"):
            (self.work / name).unlink(missing_ok=True)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
