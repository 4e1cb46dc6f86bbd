"""How a source is written: ``scheme:location@revision``, or a URL, which may hold secrets."""

from urllib.parse import SplitResult, urlsplit

from flagai.errors import HubError
from flagai.hub.names import safe_name

UNREADABLE = "a malformed address"


def shown(url: str | None) -> str:
    """A URL without what may be secret: user, password and query.

    A password with an unquoted slash looks like a port and a path; so where an @ follows a colon in the host's place,
    all before it counts as secret.
    """
    parts = _split(url or "")
    if parts is None:
        return UNREADABLE
    host, path = parts.netloc.rpartition("@")[2], parts.path
    if "@" not in parts.netloc and ":" in parts.netloc and "@" in path:
        host, path = "***", f"@{path.rpartition('@')[2]}"
    return f"{parts.scheme}://{host}{path}"


def origin(url: str | None) -> str:
    """Scheme, host and port: the address to which a secret may be sent."""
    parts = _split(url or "")
    return UNREADABLE if parts is None else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def check_address(url: str) -> None:
    """Refuse an address that cannot be used, without telling what may be secret in it.

    Raises:
        HubError: it is malformed.
    """
    if _split(url) is None:
        raise HubError(
            "The source is no address. Write it as https://host/folder/; in a user or password, write / as %2F, : as "
            "%3A, @ as %40."
        )


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; None if it is malformed: its text may hold a password in any place then."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme in ("http", "https") and (not parts.hostname or port == 0 or "\\" in parts.netloc):
        return None
    return parts


def public(spec: str) -> str:
    """A source as it may be told to anybody."""
    return shown(spec) if _is_url(spec) else spec


def recorded(spec: str) -> str:
    """A source as manifests have it: without secrets, and the hub itself for a copy of it on this machine."""
    return public(spec.replace("hf-cache:", "hf:", 1) if spec.startswith("hf-cache:") else spec)


def is_local(spec: str) -> bool:
    """Whether a source is on this machine, so that it can be used offline."""
    return spec.partition(":")[0] in ("file", "package", "hf-cache")


def last_part(spec: str) -> str:
    """What to call the model at a source: the last part of its location.

    Raises:
        HubError: it has none that could be the name of a folder.
    """
    if spec.partition(":")[0].lower() in ("http", "https"):
        check_address(spec)
    plain = public(spec)
    location = plain if _is_url(spec) else plain.partition(":")[2].partition("@")[0]
    name = location.rstrip("/").rpartition("/")[2]
    if not name or name in (".", ".."):
        raise HubError(f"{plain!r} is no source. Write one as scheme:location, such as hf:owner/name.")
    return safe_name(name, "the source")


def _is_url(spec: str) -> bool:
    scheme = spec.partition(":")[0].strip().lower()
    return scheme in ("http", "https") or ("://" in spec and scheme != "file")
