"""Bring the files of an order together, source after source, and let them appear all at once."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flagai.errors import HubError
from flagai.hub.fetch import fetch
from flagai.hub.lock import Lock
from flagai.hub.manifest import Entry, Manifest, git_sha1_of, sha256_of
from flagai.hub.names import MANIFEST, WORK
from flagai.hub.offer import Offer, ask, report
from flagai.hub.order import Order
from flagai.hub.progress import progress, readable
from flagai.hub.sources import RemoteFile
from flagai.hub.spec import public, recorded
from flagai.hub.survey import COMMIT, pending, survey
from flagai.hub.web import CancelledError, UnreachableError, Web

logger = logging.getLogger(__name__)
Advance = Callable[[int], None]


class Collector:
    """Does the work of one order under its lock.

    Files that are whole and verified wait in ``.flagai/files``; what they are is written in ``.flagai/staged.json``.
    When all are there, ``.flagai/commit.json`` is written, which is the manifest to be, and they move to their places.
    A process that is ended in between is followed by one that goes on at the same point.

    Args:
        order: what is asked for.
        lock: held by the caller.
    """

    def __init__(self, order: Order, lock: Lock) -> None:
        self.order = order
        self.lock = lock
        self.web = Web(order.policy, stop=lock.lost)
        self.work = order.folder / WORK
        self.said: list[tuple[str, str]] = []

    def run(self) -> None:
        """Fetch what is missing.

        Raises:
            HubError: no source has everything.
        """
        if pending(self.order.folder):
            self._move_in()
            if not self.order.force and survey(self.order.folder, self.order.wanted).complete:
                return
        base = Manifest.read(self.order.folder / MANIFEST)
        staged = self._staged()
        for spec in self.order.specs():
            try:
                offer = ask(self.order, spec, self.web, self._pin(spec, staged, base))
            except CancelledError:
                raise
            except HubError as error:
                self._note(spec, error)
                continue
            known = dict(base.files) if base is not None and not self.order.force else {}
            if not _agree(offer, {**known, **staged.files}) or not set(staged.files) <= {f.name for f in offer.files}:
                staged, known = self._clear(), {}
            staged = replace(staged, source=recorded(spec), revision=offer.revision)
            staged, whole = self._collect(offer, staged, known)
            if whole:
                files = {**known, **staged.files}
                self._commit(replace(staged, listing=offer.listing, files=files))
                return
        raise HubError(report(self.order, self.said))

    def _collect(self, offer: Offer, staged: Manifest, known: dict[str, Entry]) -> tuple[Manifest, bool]:
        """Bring the files of an offer that are not there; tell whether all came."""
        missing = [file for file in offer.files if file.name not in staged.files and not self._keep(file, known, offer)]
        try:
            self._check_space(missing)
        except HubError as error:
            self._note(offer.spec, error)
            return staged, False
        total = replace(offer, files=missing).total
        logger.info("%s: fetching %d files, %s, from %s", staged.name, len(missing), readable(total), offer.spec)
        before = len(self.said)
        with progress(staged.name, total) as show:

            def advance(count: int) -> None:
                show(count)
                self.lock.advance(count)

            for file in sorted(missing, key=lambda file: file.size or 0):
                try:
                    entry = self._bring(file, offer, advance)
                except CancelledError:
                    raise
                except HubError as error:
                    self._note(offer.spec, error)
                    if isinstance(error, UnreachableError):
                        break
                    continue
                staged = staged.with_file(file.name, entry)
                staged.write(self.work / "staged.json")
        return staged, len(self.said) == before

    def _keep(self, file: RemoteFile, known: dict[str, Entry], offer: Offer) -> bool:
        """Whether a file in the folder stays as it is; forced, what is found out about it joins what is known."""
        path = self.order.folder / file.name
        if not path.is_file():
            return False
        if not self.order.force and file.name in known:
            return not known[file.name].was_cut(path)
        if not self.order.force:  # what is neither known nor ours is the user's
            return file.name not in self._base_names()
        if file.sha256 is None or file.sha256 != sha256_of(path, self.lock.advance):
            return False
        known[file.name] = Entry.of(path, file.sha256, recorded(offer.spec))
        return True

    def _base_names(self) -> set[str]:
        base = Manifest.read(self.order.folder / MANIFEST)
        return set(base.files) if base is not None else set()

    def _bring(self, file: RemoteFile, offer: Offer, advance: Advance) -> Entry:
        """Bring one file to the staged ones."""
        target = self.work / "files" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.path is not None:
            try:
                sha256 = self._from_here(file, file.path, target, advance)
            except HubError as error:
                if file.locate is None:
                    raise
                logger.warning("%s; fetching it instead", error)
                file = replace(file, path=None)
        if file.path is None:
            origin = f"{offer.spec} {offer.revision}"
            sha256 = fetch(file, origin, target, self.work / "parts" / f"{file.name}.part", self.web, advance)
        return Entry.of(target, sha256, recorded(offer.spec))

    def _from_here(self, file: RemoteFile, path: Path, target: Path, advance: Advance) -> str:
        """Copy a file of this machine. A link would share its bytes: who rewrites one would destroy the other."""
        target.unlink(missing_ok=True)
        shutil.copyfile(path.resolve(), target)
        size, sha256 = target.stat().st_size, sha256_of(target, advance)
        facts: list[tuple[str, object, object]] = [("size", size, file.size), ("sha256", sha256, file.sha256)]
        if file.git_sha1 is not None:
            facts.append(("git sha1", git_sha1_of(target), file.git_sha1))
        for what, found, right in facts:
            if right is not None and found != right:
                target.unlink()
                raise HubError(f"{path} is damaged: its {what} is {found} instead of {right}")
        return sha256

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
                f"needs {readable(needed)}, but the disk of {self.order.folder} has {readable(free)}. Make room, or "
                "choose another download_path"
            )

    def _pin(self, spec: str, *manifests: Manifest | None) -> str | None:
        """The revision that earlier files came in, so that all files are of one."""
        if self.order.force:
            return None
        for manifest in manifests:
            if manifest is not None and manifest.files and manifest.source == recorded(spec):
                return manifest.revision
        return None

    def _staged(self) -> Manifest:
        """What an earlier attempt has brought."""
        empty = Manifest(self.order.model.name, "")
        staged = Manifest.journal(self.work / "staged.json")
        if staged is None:
            return empty
        whole = {name: entry for name, entry in staged.files.items() if _size(self.work / "files" / name) == entry.size}
        return replace(staged, files=whole)

    def _clear(self) -> Manifest:
        """Throw away what is staged: the next source has another version of it."""
        shutil.rmtree(self.work / "files", ignore_errors=True)
        (self.work / "staged.json").unlink(missing_ok=True)
        return Manifest(self.order.model.name, "")

    def _note(self, spec: str, error: HubError) -> None:
        self.said.append((public(spec), str(error)))
        if not spec.startswith("hf-cache:"):
            logger.warning("%s: %s", public(spec), error)

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
            file = self.work / "files" / name
            if file.is_file():
                target = self.order.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        manifest.write(self.order.folder / MANIFEST)
        for name in ("files", "parts"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        for name in (COMMIT, "staged.json", "failed.json", "id"):
            (self.work / name).unlink(missing_ok=True)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _agree(offer: Offer, present: dict[str, Entry]) -> bool:
    """Whether files that are there are those of the offer, as far as one can tell without fetching them."""
    for file in offer.files:
        entry = present.get(file.name)
        if entry is None:
            continue
        if file.size is not None and file.size != entry.size:
            return False
        if file.sha256 is not None and file.sha256 != entry.sha256:
            return False
    return True
