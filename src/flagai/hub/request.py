"""What a caller asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flagai import settings
from flagai.catalog.card import Card, ModelFile
from flagai.hub.names import model_name, public
from flagai.hub.policy import Policy


@dataclass(frozen=True)
class UncatalogedModel:
    """A model of which nothing is known but where it is."""

    name: str  # what to call it
    sources: tuple[str, ...]
    files: Sequence[ModelFile] = ()  # what is known about its files

    @classmethod
    def of(cls, spec: str) -> "UncatalogedModel":
        """The model at a source, called as :func:`flagai.hub.names.model_name` says."""
        return cls(model_name(spec), (spec,))


@dataclass(frozen=True)
class DownloadRequest:
    """What a caller asks for."""

    model: Card | UncatalogedModel
    folder: Path  # where its files belong
    wanted: tuple[str, ...]  # words of `names.GROUPS`, names of files, or patterns
    sources: tuple[str, ...]  # where to look, in this order
    force: bool = False  # ask again, and replace what differs
    policy: Policy = field(default_factory=Policy)

    def specs(self) -> list[str]:
        """The sources that can be asked; offline those that may be on this machine."""
        local = ("file", "package", "hf")
        return [spec for spec in self.sources if not settings.offline() or spec.partition(":")[0] in local]

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
            if file.name == name and (file.source is None or public(file.source) == public(spec)):
                return file
        return None
