"""One interface over all checkpoint formats: names and tensors that are read when they are used."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from flagai.checkpoint.files import CheckpointFiles
from flagai.checkpoint.formats.pickle_file import open_pickle
from flagai.checkpoint.formats.safetensors_file import open_safetensors
from flagai.checkpoint.quantization import dequantize_tensors
from flagai.checkpoint.report import phase
from flagai.checkpoint.steady import read_steadily
from flagai.checkpoint.stream.memory import mapped_ahead
from flagai.checkpoint.stream.readers import ReaderPool, with_index
from flagai.checks import check_flag, check_path
from flagai.errors import CheckpointError
from flagai.typed_json import shown

# What a clone without Git LFS leaves in the place of a large file.
_LFS_POINTER = b"version https://git-lfs"
# How many bytes expanded tensors may repeat: buffers are small.
_MOST_REPEATED = 1 << 20


class Checkpoint:
    """The tensors of a checkpoint, by the names they have in its files.

    Tensors are views of memory-mapped files; looking at names and shapes reads no weights.

    Args:
        path: what the user named; used in messages.
        parts: tensors by name, one dictionary per model-parallel part.
    """

    def __init__(self, path: Path, parts: list[dict[str, torch.Tensor]]) -> None:
        self.path = path
        self.parts = parts
        self._readers: ReaderPool | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts[0])

    def __len__(self) -> int:
        return len(self.parts[0])

    def tensors(self, name: str) -> list[torch.Tensor]:
        """The tensor of this name in every model-parallel part, of any shape; one element for ordinary checkpoints."""
        return [part[name] for part in self.parts]

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that most of the values have (float32 where there is none)."""
        return next(iter(self.dtypes), torch.float32)

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The floating-point types that occur, the one of most values first."""
        count: Counter[torch.dtype] = Counter()
        for tensor in self.parts[0].values():
            if tensor.is_floating_point():
                count[tensor.dtype] += tensor.numel()
        return [dtype for dtype, _ in count.most_common()]

    def model_dtype(self) -> torch.dtype:
        """The dtype of a model that is loaded without ``dtype``: the one that most values have.

        Raises:
            CheckpointError: it is a float8 type, in which no model computes.
        """
        if self.dtype.itemsize < 2:
            kind = str(self.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{self.path} holds {kind}, which is for storage: no model computes in it. Name the dtype to cast to, "
                "such as dtype='bfloat16' (at the command line --dtype bfloat16)."
            )
        return self.dtype

    def check_memory(self) -> None:
        """Refuse expanded tensors whose copies would take far more memory than the files.

        Raises:
            CheckpointError: there are such tensors.
        """
        repeated = 0
        for name, tensor in (pair for part in self.parts for pair in part.items()):
            repeated += max(0, tensor.nbytes - tensor.untyped_storage().nbytes())
            if repeated > _MOST_REPEATED:
                raise CheckpointError(
                    f"{self.path}: {shown(name)} is {list(tensor.shape)}, but the file repeats a few values. Save it "
                    "again with contiguous tensors, or take the model from a source that you trust."
                )

    def mapped_ahead(self) -> AbstractContextManager[None]:
        """A context: all files are brought into memory; :func:`flagai.checkpoint.stream.memory.mapped_ahead`."""
        return mapped_ahead(tensor for part in self.parts for tensor in part.values())

    @contextmanager
    def readers_ahead(self, device: torch.device, shares: int) -> Iterator[None]:
        """A context in which the readers of the files have been started, except for a CPU; see :meth:`take_readers`.

        Args:
            device: where the tensors go.
            shares: the number of processes that share the reading.
        """
        if device.type == "cpu":
            yield
            return
        size = sum(tensor.nbytes for part in self.parts for tensor in part.values()) // shares
        with phase("readers"):
            readers = ReaderPool(with_index(device), size)
        with readers:
            self._readers = readers
            try:
                yield
            finally:
                self._readers = None

    def take_readers(self) -> ReaderPool | None:
        """The readers that were started ahead; None at the second call."""
        readers, self._readers = self._readers, None
        return readers


def open_checkpoint(
    path: str | Path, *, dequantize: bool = True, mmap: bool = True, files: CheckpointFiles | None = None
) -> Checkpoint:
    """Open the weights at ``path``; all files of one version, if another process exchanges the folder meanwhile.

    Args:
        path: a weights file, or a folder in any layout that :mod:`flagai.checkpoint.files` knows.
        dequantize: turn weights of 8 and 4 bits into float32; a quantized model takes them as they are.
        mmap: map the files; False reads them at once, so that a file may be rewritten in place afterwards.
        files: the files at ``path``, if the caller has found them and watches them himself.

    Raises:
        ModelNotFoundError: no weights are there.
        CheckpointError: files are missing, damaged or unsafe.

    Returns:
        The opened checkpoint.

    Example:
        >>> list(open_checkpoint("checkpoints/GLM-large-ch"))  # the names of its tensors
    """
    check_flag("mmap", mmap)
    path = check_path("checkpoint_path", path)
    if files is not None:
        return _open_files(path, files, dequantize, mmap)
    return read_steadily(path, lambda found: _open_files(path, found, dequantize, mmap))


def _open_files(path: Path, files: CheckpointFiles, dequantize: bool, mapped: bool) -> Checkpoint:
    parts = [_join(path, part, mapped) for part in files.parts]
    for name, file in (files.placement or {}).items():
        if name not in parts[0]:
            raise CheckpointError(
                f"The index says that {file} holds {shown(name)}, but it does not. Fetch the folder again."
            )
    if dequantize:  # of all files together: a matrix and its scale may stand in two of them
        parts = [dequantize_tensors(part, path) for part in parts]
    for rank, part in enumerate(parts):
        if part.keys() != parts[0].keys():
            odd = sorted(part.keys() ^ parts[0].keys())[0]
            raise CheckpointError(
                f"Part {rank} of {path} does not match part 0: {odd!r} is only in one of them. Fetch both."
            )
    return Checkpoint(path, parts)


def _join(path: Path, files: list[Path], mapped: bool) -> dict[str, torch.Tensor]:
    joined: dict[str, torch.Tensor] = {}
    for file in files:
        tensors = _open_file(file, mapped)
        for name in tensors.keys() & joined.keys():
            raise CheckpointError(
                f"{name!r} stands in {file.name} and in an earlier shard of {path}. Remove the files of one checkpoint."
            )
        joined.update(tensors)
    return joined


def _open_file(file: Path, mapped: bool) -> dict[str, torch.Tensor]:
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_LFS_POINTER))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}). Check who may read it.") from error
    if start == _LFS_POINTER:
        raise CheckpointError(f"{file} is a Git LFS pointer, not the weights themselves. Run `git lfs pull`.")
    read = open_safetensors if file.suffix == ".safetensors" else open_pickle
    return read(file, mapped=mapped)
