"""Name maps: which part of which tensor of a file each of our parameters is, as rows of data.

A row says it once for reading and writing::

    row("blocks.{i}.attention.q.{p}", "h.{i}.attn.c_attn.{p}", part=(0, 3), transposed=True)

our ``q`` of every block is the first third of ``c_attn``, whose matrix the file holds transposed.
``{i}`` stands for a layer number, ``{p}`` for weight or bias, ``{*}`` for any rest of a name.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from flagai.checkpoint.quantization import SCALE

LAYOUTS = ("huggingface", "flagai")
# Our own parameters under their own names, as our training files and quantized models have them.
NATIVE = "native"
# Composite models hold their backbone under this name; so do FlagAI's trainer files.
BACKBONE = "model."
# What follows the name of a quantized parameter in the name of its scale.
OUR_SCALE = "_scale"
_PLACEHOLDERS = {r"\{i\}": r"(?P<i>\d+)", r"\{p\}": r"(?P<p>weight|bias)", r"\{\*\}": r"(?P<rest>.+)"}


@dataclass(frozen=True)
class NameRow:
    """Where one kind of parameter lies in the files.

    Args:
        ours: our parameter's name, with placeholders.
        theirs: the name in the file, with the same placeholders, without the prefixes of the map.
        part: ``(k, n)`` if ours is the k-th of n parts of theirs, stacked along our first dimension.
        shares: how large the n parts are beside each other; default equal. Keys have fewer heads than queries.
        interleaved: rows of a part that stand together, where the parts take turns: with the size of a head, query,
            key and value of the first head, then of the second, ...; 0 if each part is in one piece.
        transposed: the file holds matrices as [in, out]; vectors are not concerned.
        only: the layouts that use this name; a layout that is not in ``LAYOUTS`` is read, never written.
        head: the tensor belongs to a task head, so it never carries the backbone's prefix.
    """

    ours: str
    theirs: str
    part: tuple[int, int] = (0, 1)
    shares: tuple[int, ...] = ()
    interleaved: int = 0
    transposed: bool = False
    only: tuple[str, ...] | None = None
    head: bool = False

    def serves(self, layout: str) -> bool:
        """Whether files of this layout hold the tensor under this row's name."""
        return self.only is None or layout in self.only

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """What matches our names, and the file's."""
        return _compile(self.ours), _compile(self.theirs)


row = NameRow  # as the tables of the families call it
_NUMBER = re.compile(r"\.(\d+)\.")
_OWN_NAME = row("{*}", "{*}", only=(NATIVE,))


def _compile(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for placeholder, expression in _PLACEHOLDERS.items():
        pattern = pattern.replace(placeholder, expression)
    return re.compile(pattern)


def _fill_in(template: str, values: dict[str, str]) -> str:
    for placeholder, key in (("{*}", "rest"), ("{i}", "i"), ("{p}", "p")):
        template = template.replace(placeholder, values.get(key, ""))
    return template


def _readings(name: str) -> list[tuple[str, dict[str, str]]]:
    """The templates that a name may come from, each with what its placeholders stand for."""
    readings: list[tuple[str, dict[str, str]]] = [(name, {})]
    if match := _NUMBER.search(name):
        readings.append((f"{name[: match.start()]}.{{i}}.{name[match.end() :]}", {"i": match[1]}))
    leaf = name.rpartition(".")[2]
    if leaf in ("weight", "bias"):
        readings += [(template.removesuffix(leaf) + "{p}", {**values, "p": leaf}) for template, values in readings]
    return readings


@dataclass(frozen=True)
class TensorPart:
    """The part of one tensor of a file that one of our parameters is."""

    row: NameRow
    theirs: str

    def views(self, tensor: torch.Tensor) -> list[torch.Tensor] | None:
        """The part as views of the tensor, in the order of our rows; None if it has not the row's parts."""
        if self.row.transposed and tensor.dim() == 2:
            tensor = tensor.T
        index, count = self.row.part
        if count == 1:
            return [tensor]
        shares = self.row.shares or (1,) * count
        period = self.row.interleaved * count or sum(shares)
        if not tensor.dim() or tensor.shape[0] % period:
            return None
        if self.row.interleaved:
            runs = tensor.unflatten(0, (-1, count, self.row.interleaved))
            return list(runs[:, index].unbind())
        unit = tensor.shape[0] // period
        begin = sum(shares[:index]) * unit
        return [tensor[begin : begin + shares[index] * unit]]

    def joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The tensor of the file, from all parts of it in their order."""
        if len(parts) > 1 and self.row.interleaved:
            runs = [part.unflatten(0, (-1, self.row.interleaved)) for part in parts]
            return torch.stack(runs, dim=1).flatten(0, 2)
        return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class NameMap:
    """All rows of one model family.

    Args:
        rows: where several rows describe the same parameter, the first one that a file has is used.
        prefixes: what may stand before a name in a file, in any combination.
        renames: old spellings of parts of names, with the present ones.
        ignored: names (with placeholders) that carry no weights of ours: buffers, unused heads.
    """

    rows: Sequence[NameRow] = ()
    prefixes: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def layouts(self) -> list[str]:
        """Every layout that can be read, those that can be written first."""
        extra = {layout for row in self.rows for layout in row.only or ()} - set(LAYOUTS)
        return [*LAYOUTS, *sorted(extra)]

    def canonical(self, name: str) -> str:
        """A file's name without prefixes and in its present spelling."""
        for old, new in self.renames:
            name = name.replace(old, new)
        return self._prefixes.sub("", name, 1)

    @cached_property
    def _prefixes(self) -> re.Pattern[str]:
        return re.compile(rf"\A(?:{'|'.join(map(re.escape, self.prefixes))})*")

    def parts(self, ours: str) -> list[TensorPart]:
        """The tensor parts that may hold a parameter, best first; the last one is its own name (our training files)."""
        if ours.endswith(OUR_SCALE):  # a quantized matrix' scale lies beside it, in files too
            return [TensorPart(part.row, part.theirs + SCALE) for part in self.parts(ours.removesuffix(OUR_SCALE))]
        ours = ours.removeprefix(BACKBONE)
        found = [
            TensorPart(entry, _fill_in(entry.theirs, values))
            for template, values in _readings(ours)
            for entry in self._by_template.get(template, ())
        ]
        found += [
            TensorPart(entry, _fill_in(entry.theirs, match.groupdict()))
            for entry in self._by_template.get("{*}", ())
            if (match := entry.patterns[0].fullmatch(ours))
        ]
        return [*found, TensorPart(_OWN_NAME, ours)]

    @cached_property
    def _by_template(self) -> dict[str, list[NameRow]]:
        """Rows by our template, those with an open end under ``{*}``: a model has hundreds of names to look up."""
        templates: dict[str, list[NameRow]] = {}
        for entry in self.rows:
            templates.setdefault("{*}" if "{*}" in entry.ours else entry.ours, []).append(entry)
        return templates

    def knows(self, canonical: str) -> bool:
        """Whether a file's tensor belongs to this family, even if the model at hand does not use it."""
        return any(pattern.fullmatch(canonical) for pattern in self._known)

    @cached_property
    def _known(self) -> list[re.Pattern[str]]:
        return [*(pattern for entry in self.rows for pattern in entry.patterns), *map(_compile, self.ignored)]

    def plan_file(self, names: Iterable[str], layout: str, prefix: str) -> dict[str, list[tuple[TensorPart, str]]]:
        """Plan a file: ``theirs -> [(part, ours), ...]``, the parts of a fused tensor in order.

        Args:
            names: our parameters' names.
            layout: one of ``LAYOUTS``, or ``NATIVE``.
            prefix: what this layout puts before the names of a backbone.
        """
        plan: dict[str, list[tuple[TensorPart, str]]] = {}
        for ours in names:
            parts = self.parts(ours)
            # Without rows, as in a new architecture, parameters keep their own names.
            served = [part for part in parts if part.row.serves(layout) and layout != NATIVE] or parts[-1:]
            for part in served:
                theirs = part.theirs if part.row.head else prefix + part.theirs
                plan.setdefault(theirs, []).append((part, ours))
        for sources in plan.values():
            sources.sort(key=lambda source: source[0].row.part)
        return plan
