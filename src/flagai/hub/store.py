"""Make sure that a model's files are in its folder: the one door to everything in this package."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flagai import settings
from flagai.errors import HubError, OfflineError
from flagai.hub.names import EVERYTHING, WORK
from flagai.hub.order import Model, Order, Place
from flagai.hub.policy import Policy
from flagai.hub.spec import public
from flagai.hub.survey import Survey, one_model, pending, survey

if TYPE_CHECKING:
    from flagai.hub.lock import Lock
    from flagai.hub.offer import Offer


def ensure(
    model: Model | str,
    folder: str | Path | None = None,
    *,
    wanted: Sequence[str] = EVERYTHING,
    sources: Sequence[str] | None = None,
    force: bool = False,
    policy: Policy | None = None,
) -> Path:
    """Make sure that the files of a model are in a folder, and return the folder.

    If they are, nothing else happens: no connection is opened. If not, one process per folder fetches what is missing,
    source after source, and the others wait. Files take their names only when all of them are whole and verified.

    Args:
        model: a card, or a source such as "hf:owner/name@revision".
        folder: the model's folder; default: the model's name in the folder of models.
        wanted: any of "config", "weights", "tokenizer", names of files, or patterns of names.
        sources: where to look, instead of the model's own sources.
        force: ask the source again, and replace files that differ from what it has.
        policy: how patient to be.

    Raises:
        OfflineError: something is missing, and offline mode forbids to fetch it.
        HubError: no source has everything; the message lists what each of them said.
    """
    order = order_for(model, folder, wanted=wanted, sources=sources, force=force, policy=policy)
    state = Survey(missing=["everything"]) if force else _surveyed(order)
    one_model(order, state.manifest)
    if state.complete:
        return order.folder
    if settings.offline() and not pending(order.folder):
        _check_offline(order, state)
    _fill(order)
    with suppress(OSError):
        (order.folder / WORK).rmdir()
    return order.folder


def _surveyed(order: Order) -> Survey:
    try:
        return survey(order.folder, order.wanted)
    except OSError as error:
        if isinstance(error, HubError):
            raise
        raise HubError(f"{order.folder} cannot be read: {error}. Allow it, or choose another folder.") from error


def _fill(order: Order) -> None:
    from flagai.hub.collect import Collector
    from flagai.hub.once import once

    asked = not order.force

    def done() -> bool:
        if not asked:
            return False
        state = survey(order.folder, order.wanted)
        one_model(order, state.manifest)  # another process may have brought another model meanwhile
        return state.complete

    def job(lock: "Lock") -> None:
        nonlocal asked
        Collector(order, lock).run()
        asked = True

    try:
        once(order.folder / WORK, f"{order.model.name} {sorted(order.wanted)}", job, done, order.policy)
    except HubError:
        raise
    except OSError as error:
        raise HubError(f"{order.folder} cannot be filled: {error}. Make room, or choose another place.") from error


def look(
    model: Model | str,
    folder: str | Path | None = None,
    *,
    wanted: Sequence[str] = EVERYTHING,
    sources: Sequence[str] | None = None,
) -> "Offer | None":
    """Find out what :func:`ensure` would fetch from; nothing is written.

    Args:
        model: a card, or a source.
        folder: the model's folder.
        wanted: as for :func:`ensure`.
        sources: as for :func:`ensure`.

    Returns:
        What the first source that has everything offers, or None if nothing is missing.

    Raises:
        HubError: no source has everything.
    """
    from flagai.hub import offer as offers

    order = order_for(model, folder, wanted=wanted, sources=sources)
    state = _surveyed(order)
    if state.complete:
        return None
    if settings.offline():
        _check_offline(order, state)
    return offers.look(order)


def order_for(
    model: Model | str,
    folder: str | Path | None = None,
    *,
    wanted: Sequence[str] = EVERYTHING,
    sources: Sequence[str] | None = None,
    force: bool = False,
    policy: Policy | None = None,
) -> Order:
    """Understand what a caller asks for."""
    if isinstance(model, str):
        model = Place.of(model)
    return Order(
        model=model,
        folder=Path(folder) if folder is not None else settings.home() / model.name,
        wanted=tuple(wanted),
        sources=tuple(sources if sources is not None else model.sources),
        force=force,
        policy=policy or Policy(),
    )


def _check_offline(order: Order, state: Survey) -> None:
    """Offline, only what is on this machine can help."""
    from flagai.hub.offer import look

    try:
        look(order)
    except HubError as error:
        lacking = ", ".join([*state.missing, *state.damaged])
        raise OfflineError(
            f"{order.model.name} is not complete in {order.folder} (missing: {lacking}), and offline mode is on. Put "
            f"the files there by hand, from {' or '.join(map(public, order.sources)) or 'wherever they are'}, or unset "
            f"FLAGAI_OFFLINE and HF_HUB_OFFLINE.{order.advice()}"
        ) from error
