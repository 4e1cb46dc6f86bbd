"""What one client may ask of a server, and the whole of them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The limits of a server.

    Args:
        body_bytes: of a request's body.
        texts: of one request.
        new_tokens: that a request may ask for, for each answer.
        answers: of a text, or beams.
        queue: texts of a model that wait or run; more are refused with 429.
        seconds: that a request may take, until its answer is canceled with 503.
        idle_seconds: that a client may take to send a request.
        stop_seconds: that a server which stops gives to those that run.
        pack_tokens: of texts that an encoder reads at once.
        pack_seconds: that a text waits for others that are read with it.
    """

    body_bytes: int = 2 * 2**20
    texts: int = 1024
    new_tokens: int = 2048
    answers: int = 16
    queue: int = 4096
    seconds: float = 300
    idle_seconds: float = 30
    stop_seconds: float = 60
    pack_tokens: int = 4096
    pack_seconds: float = 0.003
