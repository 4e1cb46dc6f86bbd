"""Download one file, which never has its name before it is complete."""

import logging
import re
from pathlib import Path

from flagai.errors import HubError
from flagai.hub.errors import (
    ChangedError,
    PageError,
    RefusedError,
)
from flagai.hub.partial_file import Identity, PartialFile
from flagai.hub.plausible import check_size
from flagai.hub.progress import Advance
from flagai.hub.sources import RemoteFile
from flagai.hub.transfer import DownloadedFile, Transfer
from flagai.hub.web import Web

logger = logging.getLogger(__name__)
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_EXPIRED = (401, 403, 404, 410)
_NOTEWORTHY = 1 << 14  # so many bytes, and failures start to count anew
_ROUNDS = 3


def download_file(
    remote: RemoteFile, origin: str, target: Path, work: Path, web: Web, advance: Advance
) -> DownloadedFile:
    """Download a file over http(s).

    Args:
        remote: the file.
        origin: the source and the revision, which tell whether bytes of an earlier attempt belong to the same file.
        target: the name that it gets when it is whole and verified.
        work: where it grows until then.
        web: the way to the network.
        advance: told the number of bytes as they come; negative when bytes are thrown away.

    Raises:
        HubError: the source does not give the file as announced; what arrived so far is kept for another time
            unless it is known to be wrong.
    """
    if remote.locate is None:
        raise HubError(f"{remote.name} has no address")
    work.parent.mkdir(parents=True, exist_ok=True)
    left = _ROUNDS - 1
    while True:
        link = remote.locate()
        size = remote.size if link.size is None or (remote.size is not None and not remote.measured) else link.size
        if link.size is not None and link.size != size:
            raise HubError(f"{remote.name} has {link.size} bytes there instead of {size}")
        check_size(remote.name, size or 0, web.policy)
        part = PartialFile(work, Identity(size, remote.sha256 or remote.git_sha1, f"{origin} {remote.name}"))
        transfer = Transfer(remote, link, part, web, advance)
        try:
            return transfer.run(target)
        except HubError as error:
            advance(-part.count)
            if isinstance(error, PageError):
                part.discard()
                raise
            if isinstance(error, ChangedError):
                part.discard()
                left = min(left, error.rounds)
            elif not (isinstance(error, RefusedError) and error.status in _EXPIRED and part.count):
                raise  # otherwise the link may have expired: ask for a new one, and go on
            if not left:
                raise HubError(str(error)) from error
            left -= 1
            logger.warning("%s; trying again", error)
        finally:
            part.close()
