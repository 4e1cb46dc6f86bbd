"""What a caller asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flagai import settings
from flagai.catalog.card import Card, ModelFile
from flagai.hub.names import is_local, last_part, recorded
from flagai.hub.policy import Policy


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
    files: Sequence[ModelFile] = ()

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
        sources: where to look, in this order.
        force: ask again, and replace what differs.
        policy: how patient to be.
    """

    model: Card | UncatalogedModel
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
        if isinstance(self.model, UncatalogedModel):
            return ""
        source = None if self.model.online else self.model.available_from
        ways = (("Its source", source), ("By hand", self.model.by_hand), ("Or type", self.model.install))
        return "".join(f"\n{what}: {how}" for what, how in ways if how)

    def expected(self, name: str, spec: str) -> ModelFile | None:
        """What the model's card knows about a file from a source."""
        for file in self.model.files:
            if file.name == name and (file.source is None or recorded(file.source) == recorded(spec)):
                return file
        return None
