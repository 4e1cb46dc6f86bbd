"""What a file without a checksum must not be: larger than such a file can be, or a page for people."""

import re

from flagai.errors import HubError, quoted
from flagai.hub.errors import PageError
from flagai.hub.policy import Policy
from flagai.hub.progress import readable

_PAGE = re.compile(
    rb"<(!doctype|!--|\?xml|html|head|body|title|meta|script|div|form|center|svg|error|listbucketresult)(?!\w)",
    re.IGNORECASE,
)
# Byte request marks and what may stand before a page's first tag, also in UTF-16.
_BEFORE = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n\f"
_PAGES = ("text/html", "application/xhtml+xml")
_NO_TAGS = (".json", ".bin", ".pt", ".safetensors", ".model")
_SIDE_FILES = (".json", ".txt", ".model")


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
