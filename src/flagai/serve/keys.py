"""Keys of clients: without one of them, a server that has keys answers nothing but its health and its page."""

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from flagai import settings
from flagai.errors import ConfigError
from flagai.serve.refusals import RequestError


class ApiKeys:
    """The keys of a server.

    Args:
        keys: any number of them; none lets everyone in.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        # Digests have one length, so that the time of a comparison tells nothing of a key.
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def read(cls, file: Path | None) -> "ApiKeys":
        """The keys of a file, one per line, and that of the environment (``FLAGAI_API_KEY``).

        Raises:
            ConfigError: the file cannot be read, or has no key.
        """
        found = [key] if (key := settings.api_key()) else []
        if file is not None:
            try:
                lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"--api-key-file {file} cannot be read: {error}.") from error
            lines = [line for line in lines if line and not line.startswith("#")]
            if not lines:
                raise ConfigError(f"--api-key-file {file} has no key. Write one per line.")
            found += lines
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, authorization: bytes) -> None:
        """Refuse a request without a key.

        Args:
            authorization: the header.

        Raises:
            RequestError: it has no key, or a wrong one.
        """
        if not self._digests:
            return
        scheme, _, key = authorization.partition(b" ")
        given = _digest(key.strip())
        right = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != b"bearer" or not any(right):
            raise RequestError(401, "The key is missing or wrong. Send the header Authorization: Bearer KEY.")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
