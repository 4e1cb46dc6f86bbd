"""Which operators of torch are computed."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """The arguments of every operator that is called within the block, by the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.called: defaultdict[Any, list[tuple[Any, ...]]] = defaultdict(list)

    def __enter__(self) -> dict[Any, list[tuple[Any, ...]]]:  # type: ignore[override]
        super().__enter__()
        return self.called

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.called[func].append(args)
        return func(*args, **(kwargs or {}))
