"""What a caller asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flagai import settings
from flagai.hub.names import is_local, last_part, recorded
from flagai.hub.policy import Policy


class KnownFile(Protocol):
    """What is known about a file before it is fetched.

    An attribute ``source``, if there is one and it is not None, limits what is known to that source.
    """

    @property
    def name(self) -> str:
        """Its path in the model's folder."""

    @property
    def size(self) -> int | None:
        """Its bytes, if known."""

    @property
    def sha256(self) -> str | None:
        """Its checksum, if known."""


class ModelInfo(Protocol):
    """What this package needs to know about a model; ``flagai.catalog.card.Card`` is one."""

    @property
    def name(self) -> str:
        """Its name, which is also the name of its folder."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Where it is, the best first."""

    @property
    def files(self) -> Sequence[KnownFile]:
        """Its files, as far as they are known."""


@dataclass(frozen=True)
class UncatalogedModel:
    """A model of which nothing is known but where it is.

    Args:
        name: what to call it.
        sources: where it is.
        files: what is known about its files.
    """

    name: str
    sources: tuple[str, ...]
    files: Sequence[KnownFile] = ()

    @classmethod
    def of(cls, spec: str) -> "UncatalogedModel":
        """The model at a source, called by the last part of its location."""
        return cls(last_part(spec), (spec,))


@dataclass(frozen=True)
class DownloadRequest:
    """What a caller asks for.

    Args:
        model: the model.
        folder: where its files shall be.
        wanted: words of ``names.GROUPS``, names of files, or patterns.
        sources: where to look, in this request.
        force: ask again, and replace what differs.
        policy: how patient to be.
    """

    model: ModelInfo
    folder: Path
    wanted: tuple[str, ...]
    sources: tuple[str, ...]
    force: bool
    policy: Policy

    def specs(self) -> list[str]:
        """The sources, after each Hugging Face repository its copy on this machine; offline only what is local.

        The hub is asked first even so, because only it knows whether the copy is whole; the bytes come from the copy.
        """
        found: list[str] = []
        for spec in self.sources:
            found.append(spec)
            if spec.startswith("hf:") and not self.force:
                found.append(spec.replace("hf:", "hf-cache:", 1))
        return [spec for spec in found if is_local(spec)] if settings.offline() else found

    def advice(self) -> str:
        """How else to get the model, as far as its card knows."""
        ways = (
            (
                "Its source",
                None if getattr(self.model, "online", True) else getattr(self.model, "available_from", None),
            ),
            ("By hand", getattr(self.model, "by_hand", None)),
            ("Or type", getattr(self.model, "install", None)),
        )
        return "".join(f"\n{what}: {how}" for what, how in ways if how)

    def expected(self, name: str, spec: str) -> KnownFile | None:
        """What the model's card knows about a file from a source."""
        for file in self.model.files:
            source = getattr(file, "source", None)
            if file.name == name and (source is None or recorded(source) == recorded(spec)):
                return file
        return None
