"""Names of files: which are safe, which belong to a model; and of sources, whose URLs may hold secrets."""

import itertools
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit

from flagai.errors import HubError, quoted

MANIFEST = ".flagai.json"
WORK = ".flagai"  # the folder for what is not finished: parts, lock, journal

# What a caller can ask for by one word. Of the weights, the first format that a source has is taken.
GROUPS: dict[str, tuple[str, ...]] = {
    "config": (
        *("config.json", "generation_config.json"),
        # How sentences are embedded; of projections (2_Dense) their few weights, too.
        *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
        *("[0-9]_*/config.json", "[0-9]_Dense/model.safetensors", "[0-9]_Dense/pytorch_model.bin"),
    ),
    "weights": (),
    "tokenizer": (
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "*.model",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
    ),
}
VOCABULARIES = ("vocab.txt", "vocab.json", "*.model", "tokenizer.json")
WEIGHTS: tuple[tuple[str, ...], ...] = (
    ("model.safetensors",),
    ("model-*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin",),
    ("pytorch_model-*.bin", "pytorch_model.bin.index.json"),
    ("pytorch_model_[0-9]*.bin",),
    ("mp_rank_*_model_states.pt",),
    ("*/mp_rank_*_model_states.pt", "latest", "latest_checkpointed_iteration.txt"),
)
# Schemes of hubs whose models have an owner.
OWNED = ("hf", "modelscope")
EVERYTHING = ("config", "weights", "tokenizer")
UNREADABLE = "a malformed address"
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\\:*?"<>|\ud800-\udfff]')
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)")
_OWNED_NAME = re.compile(r"[\w.-]+")
_LONGEST = 1000
_SHARD = re.compile(r"(.*)-(\d{5,6})-of-(\d{5,6})(\.\w+)")


def safe_name(name: object, source: str = "it") -> str:
    """Let a name pass that stays in its folder on every system; `HubError` for any other."""
    parts = name.split("/") if isinstance(name, str) and len(name) <= _LONGEST else []
    if not parts or any(not part or part != part.strip(" ").rstrip(".") or len(part) > 200 for part in parts):
        raise HubError(
            f"{source} names the file {quoted(repr(name))}, which is not a plain path inside a folder. Do not trust it."
        )
    if any(_DEVICE.match(part) for part in parts):
        raise HubError(f"{source} names the file {quoted(repr(name))}, which is the name of a device on Windows.")
    if _FORBIDDEN.search(str(name)):
        raise HubError(f"{source} names the file {quoted(repr(name))}, with characters that no file of a model has.")
    return str(name)


def is_ours(name: str) -> bool:
    """Whether a name is one that flagai itself uses, such as the manifest."""
    return name.partition("/")[0] in (MANIFEST, WORK)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of the patterns; a star does not cross folders."""
    return any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns)


def choose(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The names that belong to what is wanted: words of ``GROUPS``, names of files, or patterns.

    Raises:
        HubError: weights, a name or a pattern are wanted, and the source has nothing such.
    """
    chosen: set[str] = set()
    for entry in wanted:
        found = _weights(names) if entry == "weights" else [n for n in names if matches(n, GROUPS.get(entry, (entry,)))]
        if not found and entry not in ("config", "tokenizer"):
            what = "weights" if entry == "weights" else f"{entry!r}"
            raise HubError(f"it has no {what}. It has: {', '.join(sorted(names)[:20]) or 'nothing'}.")
        if entry == "weights" and (gone := absent_shards(found)):
            raise HubError(f"it has no {', '.join(gone[:5])}, so its weights are not complete.")
        chosen.update(found)
    return sorted(chosen)


def has_vocabulary(names: Sequence[str]) -> bool:
    """Whether a vocabulary is among some names, with all of its files."""
    found = [pattern for pattern in VOCABULARIES if any(matches(name, (pattern,)) for name in names)]
    return bool(found) and (found != ["vocab.json"] or "merges.txt" in names)


def absent_shards(names: Sequence[str]) -> list[str]:
    """The shards that names such as model-00002-of-00007.safetensors count and that are not among them."""
    shards = [found for name in names if (found := _SHARD.fullmatch(name)) is not None]
    gone: set[str] = set()
    for begin, total, end in {(found[1], found[3], found[4]) for found in shards}:
        there = {int(found[2]) for found in shards if (found[1], found[3], found[4]) == (begin, total, end)}
        if int(total) > len(there):  # a total of a million is no reason to count that far
            first = 0 if 0 in there else 1
            numbers = (number for number in range(first, first + int(total)) if number not in there)
            gone |= {f"{begin}-{number:0{len(total)}}-of-{total}{end}" for number in itertools.islice(numbers, 20)}
    return sorted(gone)


def _weights(names: Sequence[str]) -> list[str]:
    for patterns in WEIGHTS:
        if any(matches(name, patterns[:1]) for name in names):
            return [name for name in names if matches(name, patterns)]
    return []


def shown(url: str | None) -> str:
    """A URL without what may be secret: user, password and query."""
    parts = _split(url or "")
    if parts is None:
        return UNREADABLE
    host, path = parts.netloc.rpartition("@")[2], parts.path
    # A password with an unquoted slash looks like a port and a path.
    if "@" not in parts.netloc and ":" in parts.netloc and "@" in path:
        host, path = "***", f"@{path.rpartition('@')[2]}"
    return f"{parts.scheme}://{host}{path}"


def origin(url: str | None) -> str:
    """Scheme, host and port: the address to which a secret may be sent."""
    parts = _split(url or "")
    return UNREADABLE if parts is None else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def check_address(url: str) -> None:
    """Refuse an address that cannot be used, without telling what may be secret in it."""
    if _split(url) is None:
        raise HubError(
            "The source is not a URL. Write it as https://host/folder/; in a user or password, write / as %2F, : as "
            "%3A, @ as %40."
        )


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; None if it is malformed: its text may hold a password in any place then."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme in ("http", "https") and (not parts.hostname or port == 0 or "\\" in parts.netloc):
        return None
    return parts


def public(spec: str) -> str:
    """A source without its secrets."""
    return shown(spec) if _is_url(spec) else spec


def model_name(spec: str) -> str:
    """What to call the model at a source, if that can be the name of a folder.

    Of hubs whose models have an owner it is ``owner/name`` or ``owner/name@revision``: two of them must not share a
    folder. Of any other source it is the last part of its location.
    """
    scheme, _, rest = spec.partition(":")
    if scheme in OWNED:
        location, _, revision = rest.partition("@")
        owner, _, name = location.partition("/")
        if not _OWNED_NAME.fullmatch(owner) or not _OWNED_NAME.fullmatch(name):
            raise HubError(f"{spec!r:.200} is not a source. Write one as {scheme}:owner/name@revision.")
        return safe_name(f"{location}@{revision.replace('/', '--')}" if revision else location, "the source")
    return _last_part(spec)


def _last_part(spec: str) -> str:
    if spec.partition(":")[0].lower() in ("http", "https"):
        check_address(spec)
    plain = public(spec)
    location = plain if _is_url(spec) else plain.partition(":")[2].partition("@")[0]
    name = location.rstrip("/").rpartition("/")[2]
    if not name or name in (".", ".."):
        raise HubError(f"{plain!r} is not a source. Write one as scheme:location, such as hf:owner/name.")
    return safe_name(name, "the source")


def _is_url(spec: str) -> bool:
    scheme = spec.partition(":")[0].strip().lower()
    return scheme in ("http", "https") or ("://" in spec and scheme != "file")
