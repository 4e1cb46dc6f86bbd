"""Publishing a model's folder on Hugging Face or ModelScope, through their own libraries."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flagai import settings
from flagai.checks import check_extra
from flagai.errors import HubError, InputError, OfflineError, quoted
from flagai.hub.errors import CancelledError, UnreachableError
from flagai.hub.hubs import hugging_face_token, list_hugging_face, list_modelscope, modelscope_token
from flagai.hub.manifest import git_sha1_of
from flagai.hub.names import OWNED, model_name
from flagai.hub.sources import Offer, RemoteFile, Source
from flagai.hub.web import Web

logger = logging.getLogger(__name__)

# What hubs write into a new repository by themselves.
_OF_THE_HUB = (".gitattributes",)


def push(
    folder: str | Path, target: str, *, private: bool = False, overwrite: bool = False, message: str = "Upload model"
) -> str:
    """Publish a model's folder as a repository.

    Files that the hub has already, also of an upload that was cut off, are not sent again.

    Args:
        folder: the model's folder; hidden files stay where they are.
        target: "hf:owner/name" or "modelscope:owner/name"; created if there is none.
        private: whether a new repository is private.
        overwrite: whether files of the repository that differ may be replaced.
        message: the commit's message.

    Returns:
        The repository's address.

    Raises:
        InputError: the folder is not a model's, or the target is none.
        OfflineError: offline mode is on.
        HubError: there is no token, the repository has other files, or the hub refuses.
    """
    folder, (scheme, place) = Path(folder), _target(target)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} is not a model's folder: it has no config.json. Name the folder that training wrote."
        )
    if settings.offline():
        raise OfflineError(f"{target} is not asked, because offline mode is on. Unset FLAGAI_OFFLINE.")
    names = _visible(folder)
    token, list_files, upload = _HUBS[scheme]
    secret = token()
    if not secret:
        raise HubError(f"There is no token for {target}. Set {_VARIABLES[scheme]} to one that may write.")
    offer = _existing(list_files, Source(target, place, None, Web(), copies=False))
    other = [] if offer is None else [file.name for file in offer.files if not _is_same(file, folder / file.name)]
    other = [name for name in other if name not in _OF_THE_HUB]
    if other and not overwrite:
        raise HubError(
            f"{target} has other files already: {', '.join(other[:5])}. Choose another name, or replace those of the "
            "same names with --overwrite."
        )
    try:
        return upload(folder, names, place, secret, private=private, create=offer is None, message=message)
    except (HubError, InputError):
        raise
    except Exception as error:  # the hubs' libraries raise errors of many kinds
        raise HubError(
            f"{target} was not written: {type(error).__name__}: {quoted(error)}. The same command goes on."
        ) from error


def _visible(folder: Path) -> list[str]:
    """The names of the files that are not hidden, nor below a hidden folder."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts))


def _target(target: str) -> tuple[str, str]:
    scheme, _, place = target.partition(":")
    if scheme not in OWNED or "@" in place:
        raise InputError(f"{target!r:.80} is not a repository. Write it as hf:owner/name or modelscope:owner/name.")
    return scheme, model_name(target)


def _existing(list_files: Callable[[Source], Offer], source: Source) -> Offer | None:
    """What the repository has; None if there is none, or none that the token may see."""
    try:
        return list_files(source)
    except (CancelledError, OfflineError, UnreachableError):
        raise
    except HubError:
        return None


def _is_same(remote: RemoteFile, path: Path) -> bool:
    """Whether a file has the content of one on a hub."""
    if not path.is_file() or remote.unproven or path.stat().st_size != (remote.size or path.stat().st_size):
        return False
    if remote.sha256 is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == remote.sha256
    return git_sha1_of(path) == remote.git_sha1


def _to_hugging_face(
    folder: Path, names: Sequence[str], place: str, token: str, *, private: bool, create: bool, message: str
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=settings.hf_url(), token=token)
    if create:
        api.create_repo(place, private=private, exist_ok=True)
    files = [CommitOperationAdd(name, folder / name) for name in names]
    api.create_commit(place, files, commit_message=message)
    return f"{settings.hf_url()}/{place}"


def _to_modelscope(
    folder: Path, names: Sequence[str], place: str, token: str, *, private: bool, create: bool, message: str
) -> str:
    check_extra("modelscope", "modelscope_hub")
    from modelscope_hub import HubApi

    api: Any = HubApi(endpoint=settings.modelscope_url(), token=token)
    if create:
        api.create_repo(place, "model", visibility="private" if private else "public")
    api.upload_folder(
        place, "model", folder, commit_message=message, allow_patterns=list(names), use_cache=False, disable_tqdm=True
    )
    return f"{settings.modelscope_url()}/models/{place}"


_Upload = Callable[..., str]
_HUBS: Mapping[str, tuple[Callable[[], str | None], Callable[[Source], Offer], _Upload]] = {
    "hf": (hugging_face_token, list_hugging_face, _to_hugging_face),
    "modelscope": (modelscope_token, list_modelscope, _to_modelscope),
}
_VARIABLES = {"hf": "HF_TOKEN (or run `hf auth login`)", "modelscope": "MODELSCOPE_API_TOKEN"}
