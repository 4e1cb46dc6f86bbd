"""Whether the files of a listing belong together: no file of another version, no shard that an index names absent."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from flagai.errors import HubError
from flagai.hub.answers import version_of
from flagai.hub.errors import IncompleteError, RefusedError
from flagai.hub.listing import Listing
from flagai.hub.manifest import ManifestEntry, git_sha1_of
from flagai.hub.sources import RemoteFile
from flagai.hub.web import Web
from flagai.typed_json import Fields, read_json

logger = logging.getLogger(__name__)
_INDEX_LIMIT = 64 << 20


def local_version(path: Path) -> str:
    """What tells this version of a file of this machine from others."""
    state = path.stat()
    return f"{state.st_mtime_ns}-{state.st_size}"


def agree(listing: Listing, present: Mapping[str, ManifestEntry], staged: Path) -> bool:
    """Whether files that are there are those of the listing, as far as one can tell without fetching them."""
    for file in listing.files:
        entry = present.get(file.name)
        if entry is None:
            continue
        if file.size is not None and file.size != entry.size:
            return False
        if file.sha256 is not None and file.sha256 != entry.sha256:
            return False
        here = staged / file.name
        if file.git_sha1 is not None and here.is_file() and git_sha1_of(here) != file.git_sha1:
            return False
    return True


def changed(listing: Listing, present: Mapping[str, ManifestEntry], web: Web) -> list[str]:
    """The files that have another version at the source now than when they were fetched from it.

    Asked just before they are published, of files for which the source lists no checksum: the others cannot be mixed.
    """
    unproven = [file for file in listing.files if file.unproven and file.name in present]
    if len(unproven) < 2:
        return []
    found = []
    for file in unproven:
        entry = present[file.name]
        if entry.source == listing.spec and entry.version is not None:
            now = _version_now(file, web)
            if now is not None and now != entry.version:
                logger.warning("%s has changed at %s; fetching it again", file.name, listing.spec)
                found.append(file.name)
    return found


def _version_now(file: RemoteFile, web: Web) -> str | None:
    if file.path is not None:
        return local_version(file.path)
    locate = file.again or file.locate
    if locate is None:
        return None
    link = locate()
    if link.version is not None:
        return link.version
    for method in ("HEAD", "GET"):  # a link may be for one method only
        ask = partial(
            web.request, method, link.url, {**link.headers, **({"Range": "bytes=0-0"} if method == "GET" else {})}
        )
        with suppress(RefusedError), web.patiently(ask) as response:
            return version_of(response)
    return None


def check_shards(index: Path, listing: Listing) -> None:
    """Make sure that the source has what an index names."""
    fields = Fields(read_json(index, HubError, limit=_INDEX_LIMIT), index.name, HubError)
    folder = next((name for name in listing.names if name.endswith(index.name)), index.name).rpartition("/")[0]
    names = {f"{folder}/{name}".lstrip("/") for name in fields.mapping("weight_map").values()}
    absent = sorted(names - set(listing.names))
    if absent:
        raise IncompleteError(f"has no {', '.join(absent[:5])}, which {index.name} names, so it is not complete")
