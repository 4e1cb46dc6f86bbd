"""What headers of answers say."""

import email.utils
import time

import requests


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
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
