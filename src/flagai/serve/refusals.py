"""What a request is refused for: a status, the field, and when to come again."""

from functools import partial
from typing import Any

from flagai.errors import FlagAIError

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}


class RequestError(FlagAIError):
    """A request that gets an error as its answer.

    Args:
        status: the HTTP status.
        message: what was found, where, and what to do.
        field: the field of the body that is wrong.
        retry_after: seconds after which the client may come again.
    """

    def __init__(self, status: int, message: str, *, field: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
        self.retry_after = retry_after

    def __reduce__(self) -> Any:
        return partial(RequestError, field=self.field, retry_after=self.retry_after), (self.status, str(self))

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the answer."""
        found = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})

    def body(self) -> dict[str, Any]:
        """The answer, in OpenAI's form."""
        kind = _KINDS.get(self.status, "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.field, "code": self.status}}


def unprocessable(field: str, message: str) -> RequestError:
    """A field of the body has a value that cannot be used."""
    return RequestError(422, f"{field}: {message}", field=field)
