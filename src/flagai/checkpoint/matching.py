"""Find, for each parameter, the tensors of a checkpoint that hold it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from flagai.checkpoint.names import NameMap, TensorPart
from flagai.checkpoint.reader import Checkpoint
from flagai.errors import CheckpointError

# Says along which dimension model-parallel parts of a parameter are joined (None: every part holds it whole).
ShardDimension = Callable[[str], int | None]
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class ParameterSource:
    """Where the values of one parameter come from: of each model-parallel file a view, or some in order."""

    theirs: str  # the tensor's name in the file
    parts: list[torch.Tensor]
    dimension: int | None  # along which the parts are joined; None if every part holds the whole

    @property
    def shape(self) -> torch.Size:
        """The shape of the joined parts."""
        if self.dimension is None:
            return self.parts[0].shape
        shape = list(self.parts[0].shape)
        shape[self.dimension] = sum(part.shape[self.dimension] for part in self.parts)
        return torch.Size(shape)

    def shard(self, slices: tuple[slice, ...]) -> "ParameterSource":
        """The values inside slices of the joined parts, out of the parts that overlap with them."""
        if self.dimension is None:
            return ParameterSource(self.theirs, [self.parts[0][slices]], None)
        views, begin, wanted = [], 0, slices[self.dimension]
        for part in self.parts:
            first, last = max(wanted.start - begin, 0), min(wanted.stop - begin, part.shape[self.dimension])
            begin += part.shape[self.dimension]
            if first < last:
                views.append(part[(*slices[: self.dimension], slice(first, last), *slices[self.dimension + 1 :])])
        return ParameterSource(self.theirs, views or [self.parts[0][slices]], self.dimension)

    def copies(self, target: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The copies that give ``target`` the values: every part, and the view of the target that it fills."""
        if self.dimension is None:
            return [(self.parts[0], target)]
        sizes = [part.shape[self.dimension] for part in self.parts]
        return list(zip(self.parts, target.split(sizes, self.dimension), strict=True))

    def equals(self, other: "ParameterSource") -> bool:
        """Whether both hold the same values, NaN with NaN; costs nothing where they share their bytes."""
        return all(_same_bits(a, b) for a, b in zip(self.parts, other.parts, strict=True))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    bits = _BITS[a.dtype.itemsize]
    return torch.equal(a.view(bits), b.view(bits))


def _can_join(parts: list[torch.Tensor], dimension: int | None) -> bool:
    """Whether model-parallel parts have equal shapes, but for the dimension along which they are joined."""
    shapes = [[extent for axis, extent in enumerate(part.shape) if axis != dimension] for part in parts]
    has_dimension = dimension is None or all(dimension < part.dim() for part in parts)
    return len(parts) == 1 or (has_dimension and all(shape == shapes[0] for shape in shapes))


class Matcher:
    """Looks up our parameters in a checkpoint, whatever its names are.

    Args:
        names: the family's name map.
        checkpoint: the opened checkpoint.
        shard_dimension: how model-parallel parts of a parameter are joined.
        shapes: the names and shapes of all our parameters; they tell layouts with equal names apart.

    Raises:
        CheckpointError: two tensors of the checkpoint claim the same name.
    """

    def __init__(
        self,
        names: NameMap,
        checkpoint: Checkpoint,
        shard_dimension: ShardDimension,
        shapes: Mapping[str, torch.Size],
    ) -> None:
        self._names, self._checkpoint, self._shard_dimension = names, checkpoint, shard_dimension
        self._file_names: dict[str, str] = {}
        for name in checkpoint:
            known = self._file_names.setdefault(names.canonical(name), name)
            if known != name:
                raise CheckpointError(f"{checkpoint.path} holds the same tensor as {known!r} and as {name!r}.")
        self._possible = {ours: names.parts(ours) for ours in shapes}
        candidates = {
            ours: [
                (part.row, source)
                for part in parts
                if part.theirs in self._file_names and (source := self._source(ours, part))
            ]
            for ours, parts in self._possible.items()
        }
        # The layout under which most parameters have a tensor of the right shape.
        fitting = [[row for row, source in pairs if source.shape == shapes[ours]] for ours, pairs in candidates.items()]
        self._layout = layout = max(
            names.layouts, key=lambda layout: sum(any(row.serves(layout) for row in rows) for rows in fitting)
        )
        self._sources = {
            ours: [source for _, source in sorted(pairs, key=lambda pair: not pair[0].serves(layout))]
            for ours, pairs in candidates.items()
        }

    def _source(self, ours: str, part: TensorPart) -> ParameterSource | None:
        name = self._file_names[part.theirs]
        tensors = self._checkpoint.tensors(name)
        found = [part.views(tensor) for tensor in tensors]
        views = [view for each in found if each is not None for view in each]
        dimension = self._shard_dimension(ours) if len(tensors) > 1 else 0 if len(views) > 1 else None
        if None in found or not _can_join(views, dimension):
            return None
        return ParameterSource(name, views, dimension)

    def sources(self, ours: str) -> list[ParameterSource]:
        """Every place where the checkpoint holds a parameter, the one to use first."""
        return self._sources[ours]

    def raw_shape(self, ours: str) -> str | None:
        """The name and shape of a tensor that should hold a parameter but cannot be divided; for messages."""
        name = next((name for part in self._possible[ours] if (name := self._file_names.get(part.theirs))), None)
        return None if name is None else f"{name} {tuple(self._checkpoint.tensors(name)[0].shape)}"

    def expected(self, ours: str) -> str:
        """The name under which files of this layout would hold a parameter; for messages."""
        parts = self._possible[ours]
        return next((part.theirs for part in parts if part.row.serves(self._layout)), parts[0].theirs)

    def leftovers(self) -> tuple[list[str], list[str]]:
        """Split the tensors that were not used into those of the family and unknown ones.

        Further layers than the model has are among the latter: to leave them out would be another model.
        """
        taken = {source.theirs for sources in self._sources.values() for source in sources}
        rest = [(theirs, name) for theirs, name in self._file_names.items() if name not in taken]
        if not rest:  # the usual case need not compile two patterns for every row
            return [], []
        rows = {part.row for parts in self._possible.values() for part in parts if "{i}" in part.row.ours}
        layers = [pattern for row in rows for pattern in row.patterns]
        known = {
            name
            for theirs, name in rest
            if self._names.knows(theirs) and not any(pattern.fullmatch(theirs) for pattern in layers)
        }
        return sorted(known), [name for _, name in rest if name not in known]
