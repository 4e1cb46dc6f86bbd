"""Whether the files of an offer belong together: no file of another version, no shard that an index names absent."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from flagai.errors import HubError
from flagai.hub.manifest import Entry, git_sha1_of
from flagai.hub.offer import Offer
from flagai.hub.sources import RemoteFile
from flagai.hub.spec import recorded
from flagai.hub.web import RefusedError, Web, version_of
from flagai.typed_json import Fields, read_json

logger = logging.getLogger(__name__)
_INDEX_LIMIT = 64 << 20


class IncompleteError(HubError):
    """An index names files that the source does not have."""


def local_version(path: Path) -> str:
    """What tells this version of a file of this machine from others."""
    state = path.stat()
    return f"{state.st_mtime_ns}-{state.st_size}"


def agree(offer: Offer, present: Mapping[str, Entry], staged: Path) -> bool:
    """Whether files that are there are those of the offer, as far as one can tell without fetching them."""
    for file in offer.files:
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


def changed(offer: Offer, present: Mapping[str, Entry], web: Web) -> list[str]:
    """The files that have another version at the source now than when they were fetched from it.

    Asked just before they are published, of files for which the source lists no checksum: the others cannot be mixed.
    """
    unproven = [file for file in offer.files if file.unproven and file.name in present]
    if len(unproven) < 2:
        return []
    found = []
    for file in unproven:
        entry = present[file.name]
        if entry.source == recorded(offer.spec) and entry.version is not None:
            now = _version_now(file, web)
            if now is not None and now != entry.version:
                logger.warning("%s has changed at %s; fetching it again", file.name, offer.spec)
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
    asks: tuple[tuple[str, dict[str, str]], ...] = (("HEAD", {}), ("GET", {"Range": "bytes=0-0"}))
    for method, more in asks:  # a link may be for one method only
        with (
            suppress(RefusedError),
            web.patiently(partial(web.request, method, link.url, {**link.headers, **more})) as it,
        ):
            return version_of(it)
    return None


def check_shards(index: Path, offer: Offer) -> None:
    """Make sure that the source has what an index names.

    Raises:
        IncompleteError: it has not.
    """
    fields = Fields(read_json(index, HubError, limit=_INDEX_LIMIT), index.name, HubError)
    folder = next((name for name in offer.listing if name.endswith(index.name)), index.name).rpartition("/")[0]
    names = {f"{folder}/{name}".lstrip("/") for name in fields.mapping("weight_map").values()}
    absent = sorted(names - set(offer.listing))
    if absent:
        raise IncompleteError(f"has no {', '.join(absent[:5])}, which {index.name} names, so it is not complete")
