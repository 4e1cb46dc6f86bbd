"""Names of repositories for models: ``owner/name``, ``hf:owner/name@revision``, ``modelscope:owner/name``."""

import os
import re
from pathlib import Path

from flagai import settings
from flagai.catalog import catalog
from flagai.catalog.packages import own_folder
from flagai.errors import HubError, InputError, ModelNotFoundError, OfflineError
from flagai.hub.names import OWNED, WORK
from flagai.hub.request import UncatalogedModel
from flagai.hub.store import ensure

_PART = r"[^\W_][\w.-]*"
_BARE = re.compile(rf"{_PART}/{_PART}(@[\w./+-]+)?")


def with_revision(name: str | Path, revision: str | None) -> str | Path:
    """The name of a repository with its revision in it.

    Args:
        name: what a caller named.
        revision: a commit, branch or tag; None for what the name says.

    Raises:
        InputError: the name is none of a repository, or names a revision already.
    """
    if revision is None:
        return name
    if not isinstance(revision, str) or not isinstance(name, str) or not _is_name(name):
        raise InputError(
            f"revision={revision!r:.80} needs the name of a repository, such as 'owner/name' or "
            f"'modelscope:owner/name', not with {str(name)!r:.80}."
        )
    if "@" in name:
        raise InputError(f"{name!r:.80} names a revision, and revision={revision!r:.80} another one. Leave one out.")
    return f"{name}@{revision}"


def repository(name: str | Path, home: str | Path | None = None) -> UncatalogedModel | None:
    """The repository that a name means; None for a folder, a path and a name of the catalog.

    Args:
        name: what a caller named. ``owner/name`` is a name of the catalog first, then a model directory, then a
            repository on Hugging Face; with ``hf:`` or ``modelscope:`` it is nothing but a repository.
        home: the model directory; None where a name may also be a path.

    Raises:
        HubError: the name or its revision cannot be those of a folder.
    """
    if not isinstance(name, str) or not _is_name(name):
        return None
    if name.partition(":")[0] in OWNED:
        return UncatalogedModel.of(name)
    own = own_folder(name, home)
    # Where a folder has the owner's name, the name is a mistyped path: no hub needs to hear of it.
    if _is_filled(own) or (home is None and os.path.isdir(own.parts[0])):
        return None
    try:
        catalog.find(name)
    except ModelNotFoundError:
        return UncatalogedModel.of(f"{OWNED[0]}:{name}")
    return None


def fetch_repository(name: str | Path, home: str | Path | None, wanted: tuple[str, ...]) -> Path | None:
    """The folder of a repository, with what is wanted of it; None if the name means no repository.

    Args:
        name: see :func:`repository`.
        home: the model directory; default ``FLAGAI_HOME``.
        wanted: see :func:`flagai.hub.ensure`.

    Raises:
        HubError: the files cannot be fetched.
    """
    found = repository(name, home)
    if found is None:
        return None
    folder = (settings.home() if home is None else Path(home).expanduser()) / found.name
    try:
        return ensure(found, folder, wanted=wanted)
    except HubError as error:
        if str(name).partition(":")[0] in OWNED or not isinstance(name, str):
            raise
        kind = OfflineError if isinstance(error, OfflineError) else HubError
        raise kind(
            f"There is no folder {own_folder(name, home).absolute()}, and the catalog has no {name!r}, so it is taken "
            f"for a repository. {error}\nOn ModelScope: modelscope:{name}."
        ) from error


def _is_name(name: str) -> bool:
    return name.partition(":")[0] in OWNED or _BARE.fullmatch(name) is not None


def _is_filled(folder: Path) -> bool:
    """Whether a folder has more than the beginnings of a download."""
    return os.path.isdir(folder) and any(entry.name != WORK for entry in folder.iterdir())
