"""What is missing in a model's folder, read without a connection."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flagai.checkpoint.files import find_files
from flagai.errors import CheckpointError, HubError, ModelNotFoundError
from flagai.hub.manifest import Manifest, ManifestEntry
from flagai.hub.names import EVERYTHING, GROUPS, MANIFEST, OWNED, VOCABULARIES, WORK, choose, matches, public
from flagai.hub.request import DownloadRequest, UncatalogedModel

COMMIT = "commit.json"


@dataclass(frozen=True)
class LocalState:
    """The state of a folder."""

    missing: list[str] = field(default_factory=list)  # names, or words of `GROUPS` where names are not known
    manifest: Manifest | None = None  # of what was fetched before
    damaged: list[str] = field(default_factory=list)  # fetched files that were cut short since, with their sizes

    @property
    def complete(self) -> bool:
        """Whether nothing has to be fetched."""
        return not self.missing and not self.damaged


def local_state(folder: Path, wanted: Sequence[str]) -> LocalState:
    """Find out what of ``wanted`` (words of ``GROUPS``, names, patterns) a folder lacks.

    A folder with a manifest is compared with it. A folder that the user has filled is taken as it is: one
    configuration, weights in any format, one vocabulary. Files of the user are never judged nor replaced.

    Raises:
        HubError: a fetched file was changed since, so that fetching it again would destroy the user's work.
    """
    if pending(folder):
        return LocalState(missing=["an interrupted download is waiting to be finished"])
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None:
        return LocalState(missing=[entry for entry in wanted if not _present(folder, entry)])
    asked = {name for entry in wanted for name in _offered(manifest, entry)}
    damaged = []
    for name, size, entry in _resized(folder, manifest):
        if name not in asked:
            continue
        if not entry.was_cut(folder / name):
            raise HubError(
                f"{folder / name} has {size} bytes, but {entry.size} were fetched from {entry.source}: it has been "
                f"changed. If that was intended, delete {folder / MANIFEST} to make the folder yours. If not, "
                f"`flagai download {manifest.name} --force` fetches it again."
            )
        damaged.append(f"{name} ({size} of its {entry.size} bytes are left)")
    missing = [name for entry in wanted for name in _missing(folder, manifest, entry)]
    return LocalState(missing, manifest, damaged)


def holds_model(folder: Path, wanted: Sequence[str] = EVERYTHING) -> bool:
    """Whether a model loads from a folder without a download; a failed download leaves a folder that holds none."""
    try:
        return local_state(folder, wanted).complete
    except HubError:  # the files do not fit the manifest
        return False


def one_model(request: DownloadRequest, manifest: Manifest | None) -> None:
    """Make sure that a folder holds the model and revision that are asked for: each folder holds one."""
    if manifest is None or request.force or _is_same(request, manifest):
        return
    raise HubError(
        f"{request.folder} holds {manifest.name} from {manifest.source}, not {request.model.name} from "
        f"{' or '.join(map(public, request.sources))}. Choose another folder, or say --force to replace what is there."
    )


def _is_same(request: DownloadRequest, manifest: Manifest) -> bool:
    place, revision = _place_and_revision(manifest.source)
    asked = dict(_place_and_revision(spec) for spec in (*request.sources, *request.model.sources))
    direct = isinstance(request.model, UncatalogedModel) and len(asked) == 1  # named by its source alone
    if place in asked:
        wanted = asked[place]
        known = (revision or "main", revision or "master", manifest.revision or "")
        return not direct or not wanted or wanted in known or (len(wanted) > 6 and known[-1].startswith(wanted))
    hubs = {spec.partition(":")[0] for spec in asked}
    if direct and (place.partition(":")[0] in hubs or {place.partition(":")[0], *hubs} <= set(OWNED)):
        return False  # two repositories of one hub, which may be called alike, or of two hubs with owners of their own
    return request.model.name in (manifest.name, request.folder.name)


def _place_and_revision(spec: str) -> tuple[str, str]:
    place, _, revision = public(spec).partition("@")
    return place.rstrip("/"), revision


def pending(folder: Path) -> bool:
    """Whether a download into a folder was interrupted while its files took their places, which needs no network."""
    return (folder / WORK / COMMIT).exists()


def provenance(folder: Path) -> Manifest | None:
    """What was fetched into a folder, or is about to take its place there; None if only the user did."""
    return Manifest.read(folder / MANIFEST) or Manifest.journal(folder / WORK / COMMIT)


def intact(folder: Path) -> bool:
    """Whether no download waits to be finished, and no fetched file was cut short; rewritten ones are the user's."""
    if pending(folder):
        return False
    manifest = Manifest.read(folder / MANIFEST)
    return manifest is None or not any(e.was_cut(folder / name) for name, _, e in _resized(folder, manifest))


def _resized(folder: Path, manifest: Manifest) -> Iterator[tuple[str, int, ManifestEntry]]:
    """The fetched files that have another size now."""
    for name, entry in manifest.files.items():
        path = folder / name
        if path.is_file() and (size := path.stat().st_size) != entry.size:
            yield name, size, entry


def _missing(folder: Path, manifest: Manifest, entry: str) -> list[str]:
    """What of one wanted thing is absent, by the listing of the source."""
    offered = _offered(manifest, entry)
    if entry == "weights" and not any(name in manifest.files for name in offered):
        return [] if _present(folder, entry) else [entry]
    absent = [name for name in offered if not (folder / name).is_file()]
    return absent or ([] if entry in GROUPS or _present(folder, entry) else [entry])


def _offered(manifest: Manifest, entry: str) -> list[str]:
    try:
        return choose(manifest.listing, [entry])
    except HubError:
        return []


def _present(folder: Path, entry: str) -> bool:
    """Whether a folder without a manifest has what is wanted."""
    if entry == "weights":
        try:
            return bool(find_files(folder).parts)
        except (CheckpointError, ModelNotFoundError):
            return False
    patterns = {"config": ("config.json",), "tokenizer": VOCABULARIES}.get(entry, (entry,))
    return folder.is_dir() and any(matches(name, patterns) for name in _names(folder))


def _names(folder: Path) -> Iterator[str]:
    """The files of a folder, without flagai's own, which others make and remove at this moment."""
    for place, folders, files in os.walk(folder):  # unlike rglob, it passes over folders that vanish
        if WORK in folders:
            folders.remove(WORK)
        yield from ((Path(place) / file).relative_to(folder).as_posix() for file in files)
