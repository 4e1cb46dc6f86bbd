"""How a source is written: ``scheme:location@revision``, or a URL, which may hold secrets."""

from urllib.parse import urlsplit

from flagai.errors import HubError
from flagai.hub.names import safe_name


def shown(url: str | None) -> str:
    """A URL without what may be secret: user, password and query."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return "a malformed address"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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
    plain = public(spec)
    location = plain if _is_url(spec) else plain.partition(":")[2].partition("@")[0]
    name = location.rstrip("/").rpartition("/")[2]
    if not name or name in (".", ".."):
        raise HubError(f"{plain!r} is no source. Write one as scheme:location, such as hf:owner/name.")
    return safe_name(name, "the source")


def _is_url(spec: str) -> bool:
    return spec.startswith(("http://", "https://"))
