"""``adapter=`` of the Predictor's methods: the adapter of a call."""

from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import wraps
from types import GeneratorType
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


def takes_adapter(method: Method) -> Method:
    """Let a method of an object with a ``model`` take ``adapter``, the name of the adapter that computes the call."""

    @wraps(method)
    def call(self: Any, *args: Any, adapter: str | None = None, **options: Any) -> Any:
        if adapter is None:
            return method(self, *args, **options)
        with self.model.use_adapter(adapter):
            found = method(self, *args, **options)
            return _kept(found) if isinstance(found, GeneratorType) else found

    return call  # type: ignore[return-value]


def _kept(found: Iterator[Any]) -> Iterator[Any]:
    """What a generator yields, computed with the adapter of the call that made it."""
    context = copy_context()
    over = object()

    def rest() -> Iterator[Any]:
        while (entry := context.run(next, found, over)) is not over:
            yield entry

    return rest()
