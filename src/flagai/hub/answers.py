"""What a server's answer says: numbers, versions, and whether it can be the file at all."""

import email.utils
import re
import time

import requests

from flagai.errors import HubError, quoted
from flagai.hub.errors import PageError
from flagai.hub.policy import Policy
from flagai.hub.progress import readable

_PAGE = re.compile(
    rb"<(!doctype|!--|\?xml|html|head|body|title|meta|script|div|form|center|svg|error|listbucketresult)(?!\w)",
    re.IGNORECASE,
)
# Byte order marks and what may stand before a page's first tag, also in UTF-16.
_BEFORE = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n\f"
_PAGES = ("text/html", "application/xhtml+xml")
_NO_TAGS = (".json", ".bin", ".pt", ".safetensors", ".model")
_SIDE_FILES = (".json", ".txt", ".model")


def whole_number(text: str | None) -> int | None:
    """The number of a header, if it is one of a sensible length."""
    return int(text) if text is not None and len(text) < 19 and text.isascii() and text.isdecimal() else None


def version_of(response: requests.Response) -> str | None:
    """What tells this version of a file from others: its ETag, or else the date."""
    etag, date = (_plain(response.headers.get(name)) for name in ("ETag", "Last-Modified"))
    return date or etag if etag is None or etag.startswith("W/") else etag


def validator_of(response: requests.Response) -> str | None:
    """What proves that parts belong to one version of a file; weak ETags promise less than that."""
    version = version_of(response)
    return None if version is None or version.startswith("W/") else version


def _plain(value: str | None) -> str | None:
    return value if value and len(value) <= 256 and value.isascii() and value.isprintable() else None


def retry_after(value: str | None) -> float | None:
    """Seconds to wait: the header holds a number or a date."""
    if value is None:
        return None
    for read in (float, lambda text: email.utils.parsedate_to_datetime(text).timestamp() - time.time()):
        try:
            return max(0.0, read(value))
        except (ValueError, TypeError, OverflowError):
            continue
    return None


def check_size(name: str, size: int, policy: Policy, sized: bool = True) -> None:
    """Refuse more bytes than such a file can have, so that a server cannot fill the disk."""
    most = policy.largest_side_file if name.endswith(_SIDE_FILES) else size if sized else policy.largest_unsized
    if size > most:
        raise HubError(f"{name} has more than {readable(most)} there, which is too large for such a file")


def refuse_page(name: str, kind: str, begin: bytes) -> None:
    """Refuse what is shown to people, such as a page to log in, in the place of a file without a checksum."""
    kind = kind.partition(";")[0].strip().lower()
    begin = begin.lstrip(_BEFORE).replace(b"\0", b"")
    # A vocabulary may begin with "<s>", but neither JSON nor weights do with "<".
    page = kind in _PAGES or _PAGE.match(begin) is not None
    page = page or (begin.startswith(b"<") and name.endswith(_NO_TAGS))
    if (page or (kind.endswith("json") and not name.endswith(".json"))) and not name.endswith((".html", ".htm")):
        raise PageError(
            f"{name}: the server sends a web page or a message instead of the file ({quoted(kind) or 'HTML'}). Open "
            "the address in a browser: it may ask to log in"
        )
