"""Fill a model from a checkpoint: plan every tensor first, complain once, then place without a second copy."""

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

from flagai.checkpoint.matching import Matcher, ParameterSource, ShardDimension
from flagai.checkpoint.names import NameMap
from flagai.checkpoint.out_of_memory import memory_explained
from flagai.checkpoint.reader import Checkpoint
from flagai.checkpoint.report import LoadReport, fold, phase
from flagai.checkpoint.stream.transfer import TensorTransfer
from flagai.parallel import dtensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

logger = logging.getLogger(__name__)


def fill_model(
    model: nn.Module,
    names: NameMap,
    checkpoint: Checkpoint,
    *,
    shard_dimension: ShardDimension,
    fresh: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    device: torch.device | None = None,
    replicas: "ProcessGroup | None" = None,
) -> LoadReport:
    """Load a checkpoint into a model, strictly: all of it, or an error and nothing.

    Parameters on the meta device are replaced, by views of the file where type and device allow it, so that
    nothing is copied; others are overwritten in place. Each parameter keeps the type that it has. Of a sharded
    parameter, only this rank's part is read.

    Args:
        model: the model; the types of its parameters are the types to load.
        names: the family's name map.
        checkpoint: the opened checkpoint.
        shard_dimension: how model-parallel parts of a parameter are joined.
        fresh: patterns of parameters that may be absent, such as a new head on a pretrained backbone. They are
            left as they are and listed in the report.
        optional: names of modules that the model can do without. If a checkpoint has nothing of one, it is taken
            out of the model.
        device: where parameters that are on the meta device are placed (default: the CPU).
        replicas: ranks that load the same at the same time; on devices each reads a share, and they gather.

    Returns:
        The report; ``fresh`` and ``untied`` are left for the caller to act upon.

    Raises:
        LoadError: a tensor is missing, unexpected, or of the wrong shape or type. The model is as it was.
    """
    checkpoint.check_memory()
    report = LoadReport(str(checkpoint.path), type(model).__name__)
    with phase("match"):
        parameters = dict(model.named_parameters(remove_duplicate=False))
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        matcher = Matcher(names, checkpoint, shard_dimension, shapes)
        chosen: dict[str, ParameterSource] = {}
        tied: dict[int, list[str]] = {}
        for name, parameter in parameters.items():
            tied.setdefault(id(parameter), []).append(name)
        for aliases in tied.values():
            chosen.update(_choose(aliases, matcher, parameters[aliases[0]], fresh, report))
        report.unused, report.unexpected = matcher.leftovers()
        removable = _removable(optional, list(chosen), report)
    report.raise_if_broken()
    _log(report)
    device = device or torch.device("cpu")
    unique = {id(value): value for value in parameters.values()}
    new = sum(dtensor.local(value).nbytes for value in unique.values() if value.is_meta)
    said = f"{report.target} from {report.source}"

    def progress() -> str:
        total = sum(tensor.nbytes for part in checkpoint.parts for tensor in part.values())
        return f"Until then {transfer.bytes_asked / 1e9:,.2f} GB of the {total / 1e9:,.2f} GB of the files had a place."

    with torch.no_grad(), memory_explained(said, new, device, progress):
        with phase("allocate"):
            transfer = TensorTransfer(device, new, replicas, checkpoint.take_readers())
        # Until its end the model is as it was, but for parameters that are overwritten in place.
        with transfer, phase("place"):
            placed = _place_all(parameters, chosen, transfer, report)
        report.bytes_asked = transfer.bytes_asked
        with phase("assign"):
            _assign(model, {**dict.fromkeys(removable), **placed})
    return report


def _place_all(
    parameters: dict[str, nn.Parameter],
    chosen: dict[str, ParameterSource],
    transfer: TensorTransfer,
    report: LoadReport,
) -> dict[str, nn.Parameter]:
    placed: dict[str, nn.Parameter] = {}
    shared: dict[int, nn.Parameter] = {}
    for name, source in chosen.items():
        parameter = parameters[name]
        if name in report.untied:
            untied = nn.Parameter(torch.empty_like(parameter), requires_grad=parameter.requires_grad)
            placed[name] = _place(untied, source, transfer)
            continue
        if id(parameter) not in shared:
            shared[id(parameter)] = _place(parameter, source, transfer)
        placed[name] = shared[id(parameter)]
    return placed


def _choose(
    aliases: list[str], matcher: Matcher, parameter: nn.Parameter, fresh: tuple[str, ...], report: LoadReport
) -> dict[str, ParameterSource]:
    """Choose a source for each name of one parameter, or note in the report why there is none."""
    found = {name: sources for name in aliases if (sources := matcher.sources(name))}
    if not found:
        name = aliases[0]
        if raw := matcher.raw_shape(name):
            report.shape_mismatch.append(f"{name} {tuple(parameter.shape)}, but it cannot be cut from {raw}")
        elif any(fnmatchcase(name, pattern) for pattern in fresh):
            report.newly_initialized.append(name)
        else:
            report.missing.append(f"{name} ({matcher.expected(name)})")
        return {}
    first = next(iter(found.values()))[0]
    for name, sources in found.items():
        used = sources[0]
        dtype = used.parts[0].dtype
        # A parameter takes any floating-point type, or exactly its own integers.
        if not (dtype.is_floating_point if parameter.is_floating_point() else dtype == parameter.dtype):
            report.mistyped.append(f"{name}, but {used.theirs} is {dtype}")
            return {}
        if used.shape != parameter.shape:
            ours, theirs = tuple(parameter.shape), tuple(used.shape)
            report.shape_mismatch.append(f"{name} {ours}, but {used.theirs} gives {theirs}")
            return {}
        report.conflicting += [
            f"{other.theirs} differs from {used.theirs}"
            for other in sources[1:]
            if other.theirs != used.theirs and not other.equals(used)
        ]
        if used.theirs != first.theirs and not used.equals(first):
            report.untied.append(name)
    return {name: found[name][0] if name in report.untied else first for name in aliases}


def _removable(optional: tuple[str, ...], chosen: list[str], report: LoadReport) -> list[str]:
    """The optional modules of which the checkpoint has nothing; they are no longer missing in the report."""
    for module in optional:
        prefix = f"{module}."
        absent = any(line.startswith(prefix) for line in report.missing)
        if absent and not any(name.startswith(prefix) for name in chosen):
            report.dropped_modules.append(module)
            report.missing = [line for line in report.missing if not line.startswith(prefix)]
    return report.dropped_modules


def _place(parameter: nn.Parameter, source: ParameterSource, transfer: TensorTransfer) -> nn.Parameter:
    """The parameter that will have the values, of a sharded one this rank's: a new one for one on the meta device."""
    if not parameter.is_meta:
        slices = dtensor.local_slices(parameter)
        transfer.copy(source if slices is None else source.shard(slices), dtensor.local(parameter.detach()))
        return parameter
    if dtensor.is_sharded(parameter):
        values = dtensor.from_shard(transfer.read_shard(source, parameter), like=parameter)
    else:
        values = transfer.read(source, parameter.dtype)
    return dtensor.as_parameter(values, parameter.requires_grad)


def _assign(model: nn.Module, values: Mapping[str, nn.Parameter | None]) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, value in values.items():
        owner, _, leaf = name.rpartition(".")
        if getattr(modules[owner], leaf) is not value:
            setattr(modules[owner], leaf, value)


def _log(report: LoadReport) -> None:
    for level, text, names in (
        (logging.WARNING, "randomly initialized, train before use", report.newly_initialized),
        (logging.WARNING, "holds two different values for one tensor", report.conflicting),
        (logging.INFO, "declared as tied, but the checkpoint has values of their own", report.untied),
        (logging.INFO, "not in the checkpoint, so the model has none", report.dropped_modules),
        (logging.INFO, "not used by this class", report.unused),
    ):
        if names:
            logger.log(level, "%s from %s: %s: %s", report.target, report.source, text, ", ".join(fold(names)))
