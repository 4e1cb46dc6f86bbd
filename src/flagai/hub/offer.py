"""What one source offers for an order."""

from dataclasses import dataclass, replace

from flagai.errors import HubError
from flagai.hub.names import choose, has_vocabulary
from flagai.hub.order import KnownFile, Order
from flagai.hub.sources import Link, RemoteFile, open_source
from flagai.hub.spec import public
from flagai.hub.web import RefusedError, Web


@dataclass(frozen=True)
class Offer:
    """What one source has of what was asked for.

    Args:
        spec: the source, without secrets.
        revision: pinned.
        listing: the names of all its files.
        files: those that belong to the order.
    """

    spec: str
    revision: str | None
    listing: tuple[str, ...]
    files: list[RemoteFile]

    @property
    def total(self) -> int | None:
        """The bytes of all files, if every size is known."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


def ask(order: Order, spec: str, web: Web, revision: str | None = None) -> Offer:
    """Ask a source what it has; sizes are found out for the chosen files only.

    Args:
        order: what is asked for.
        spec: the source, without secrets.
        web: the way to the network.
        revision: the revision to take if the source's description names none.

    Raises:
        HubError: it has not everything, or another version than the card knows.
    """
    names = tuple(dict.fromkeys(file.name for file in order.model.files))
    source = open_source(spec, web, names, revision)
    remotes = {file.name: file for file in source.files()}
    if len(remotes) > order.policy.most_files:
        raise HubError(f"lists more than {order.policy.most_files} files")
    if spec.startswith("hf-cache:") and "tokenizer" in order.wanted and not has_vocabulary(list(remotes)):
        raise HubError("the copy on this machine has no vocabulary; only the hub knows whether there is one")
    chosen = choose(list(remotes), order.wanted, "it")
    files = [_measured(_checked(remotes[name], order.expected(name, spec))) for name in chosen]
    return Offer(public(spec), source.revision, tuple(remotes), files)


def _checked(remote: RemoteFile, known: KnownFile | None) -> RemoteFile:
    """Join what the source says with what the card knows."""
    if known is None:
        return remote
    for what, said, right in (("size", remote.size, known.size), ("sha256", remote.sha256, known.sha256)):
        if said is not None and right is not None and said != right:
            raise HubError(f"has another version of {remote.name}: its {what} is {said}, not {right} as in the card")
    size = remote.size if remote.size is not None else known.size
    return replace(remote, size=size, sha256=remote.sha256 or known.sha256)


def _measured(remote: RemoteFile) -> RemoteFile:
    """Find out the size where it comes with the link; the link is used once, so nothing is asked twice."""
    locate = remote.locate
    if remote.size is not None or locate is None:
        return remote
    try:
        links: list[Link] = [locate()]
    except RefusedError:
        return remote  # tells about it when it is fetched; other sources may have it
    size = links[0].size
    return replace(remote, size=size, measured=True, locate=lambda: links.pop() if links else locate(), again=locate)


def look(order: Order) -> Offer:
    """What the first source that has everything offers; nothing is written.

    Raises:
        HubError: none has.
    """
    web, said = Web(order.policy), []
    for spec in order.specs():
        try:
            return ask(order, spec, web)
        except HubError as error:
            said.append((public(spec), str(error)))
    raise HubError(report(order, said))


def report(order: Order, said: list[tuple[str, str]]) -> str:
    """One message that lists what each source said."""
    name = order.model.name
    lines = [f"  {spec}: {text}" for spec, text in said if not spec.startswith("hf-cache:")] or [
        f"  {spec}: {text}" for spec, text in said
    ]
    text = f"{name} could not be fetched into {order.folder}. "
    text += "What each source said:\n" + "\n".join(lines) if lines else "It has no source that can be asked."
    text += f"{order.advice()}\nWhat has arrived is kept for the next call. "
    text += f"Files that you put into {order.folder} yourself are used as they are. "
    return text + "Mirrors: HF_ENDPOINT, FLAGAI_BAAI_URL, --source. FLAGAI_OFFLINE=1 asks nobody."
