"""``list_models``: what there is, for which task, and what is on this machine already."""

from dataclasses import dataclass
from pathlib import Path

from flagai import settings
from flagai.catalog import catalog
from flagai.catalog.card import Card
from flagai.catalog.packages import card_folder, package_folder
from flagai.checks import check_path
from flagai.errors import printable
from flagai.hub.local_state import holds_model


@dataclass(frozen=True)
class ListedModel:
    """A model of the catalog.

    Args:
        name: the name, as ``flagai.load`` and ``AutoLoader`` take it.
        family: one of :data:`flagai.catalog.card.FAMILIES`.
        tasks: what it does without further training; "lm" is a pretrained backbone.
        language: "zh" or "en".
        parameters: their number.
        available_from: its sources in words.
        shipped: whether an installed Python package holds its files.
        downloaded: whether all its files are in the model directory, or shipped.
        generation: of the GLM series, such as "ChatGLM3".
    """

    name: str
    family: str
    tasks: tuple[str, ...]
    language: str
    parameters: int
    available_from: str
    shipped: bool
    downloaded: bool
    generation: str | None = None

    @classmethod
    def of(cls, card: Card, home: str | Path | None) -> "ListedModel":
        """What a card says, and which of its files are in ``home``, the model directory."""
        folder = card_folder(card, card.name, settings.home() if home is None else check_path("download_path", home))
        shipped = package_folder(card) is not None
        downloaded = shipped or holds_model(folder)
        tasks, source = catalog.tasks_of(card), card.available_from
        parameters, generation = card.parameters, card.generation
        return cls(card.name, card.family, tasks, card.language, parameters, source, shipped, downloaded, generation)

    @property
    def size(self) -> str:
        """The number of parameters in words, such as "355 M"."""
        return f"{self.parameters / 1e9:.1f} B" if self.parameters >= 1e9 else f"{self.parameters / 1e6:.0f} M"


class ModelList(tuple[ListedModel, ...]):
    """Models; printed as a table."""

    def __repr__(self) -> str:
        rows = [("name", "family", "tasks", "language", "parameters", "here", "available from")]
        if any(info.generation for info in self):
            rows = [("name", "generation", *rows[0][2:])]
        for info in self:
            here = "shipped" if info.shipped else "downloaded" if info.downloaded else "-"
            name, tasks = printable(info.name), ", ".join(info.tasks)
            kind = info.generation or info.family
            rows.append((name, kind, tasks, info.language, info.size, here, info.available_from))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def list_models(
    task: str | None = None,
    family: str | None = None,
    *,
    language: str | None = None,
    download_path: str | Path | None = None,
) -> ModelList:
    """The models of the catalog, those of your own cards included.

    Args:
        task: only models that do this task, by any of its names, without further training.
        family: only models of this family; "glm" is the whole series, "chatglm" from ChatGLM-6B on.
        language: only models of this language, "zh" or "en".
        download_path: the model directory; default ``FLAGAI_HOME``, or else ``./checkpoints``.

    Returns:
        Backbones before fine-tuned models, by family and size.

    Raises:
        CatalogError: no model is of this task, family or language; the message has those that exist.

    Example:
        >>> flagai.list_models(task="poetry")
    """
    cards = catalog.list_models(task=task, family=family, language=language)
    return ModelList(ListedModel.of(card, download_path) for card in cards)
