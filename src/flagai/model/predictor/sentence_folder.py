"""What a sentence-transformers folder asks for: pooling, projections, prompts and lengths."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import ConfigError, InputError
from flagai.model.predictor.pooling import ACTIVATIONS, MODES, Pooling, Projection, to_unit_length
from flagai.typed_json import Fields, parse_json, read_json, shown

_MODULES = "modules.json"
_POOLING = "1_Pooling"
_PROMPTS = "config_sentence_transformers.json"
SIMILARITIES = ("cosine", "dot")
# The former switches of a pooling, in the order in which its vectors are joined.
_SWITCHES: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_VECTOR = "sentence_embedding"
# Tokenizers without a limit name a number above this one.
_NO_LIMIT = 1 << 20


@dataclass(frozen=True)
class SentenceSettings:
    """How a folder's sentences are embedded.

    Args:
        max_length: how many tokens are read, special ones included; None for all that the model has positions for.
        lower: whether texts are lower-cased first.
        similarity: how two vectors are compared, one of ``SIMILARITIES``.
        pooling: what becomes of the hidden states.
        prompts: texts that can stand before others, by their names.
        default_prompt: the name of the one that stands there unless another one is asked for.
    """

    max_length: int | None = None
    lower: bool = False
    similarity: str = "cosine"
    pooling: Pooling = field(default_factory=Pooling)
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    @classmethod
    @functools.lru_cache(maxsize=64)  # a call for one sentence should not read four files
    def read(cls, folder: Path) -> "SentenceSettings":
        """Read the files of sentence-transformers in a folder; a folder without them asks for the mean.

        Raises:
            ConfigError: a file is broken, or asks for what is not done here; the message names it.
        """
        pooling, similarity, prompts, default = _pooling(folder), "cosine", dict[str, str](), None
        if (folder / _PROMPTS).is_file():
            similarity, prompts, default = _prompts(folder / _PROMPTS)
        longest, lower = _lengths(folder)
        return cls(longest, lower, similarity, pooling, prompts, default)

    def prompt(self, name: str | None, text: str | None) -> str:
        """What stands before every text.

        Args:
            name: of one of the prompts; None for the default one.
            text: the prompt itself; "" for none.

        Raises:
            InputError: there is no prompt of this name, or both are given.
        """
        if name is not None and text is not None:
            raise InputError("Give prompt_name or prompt, not both.")
        name = self.default_prompt if name is None and text is None else name
        if name is not None and name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise InputError(f"The model has no prompt {name!r:.80}. Known: {known}. Or give the text: prompt=...")
        return self.prompts[name] if name is not None else text or ""


def _lengths(folder: Path) -> tuple[int | None, bool]:
    file = next(folder.glob("sentence_*_config.json"), None)
    if file is None:
        return None, False
    fields = Fields(read_json(file), str(file))
    longest = fields.integer("max_seq_length", None)
    if longest is None and (folder / "tokenizer_config.json").is_file():  # where newer folders have it
        longest = Fields(read_json(folder / "tokenizer_config.json"), file.name).table.get("model_max_length")
        longest = longest if isinstance(longest, int) and longest < _NO_LIMIT else None
    if longest is not None and longest < 1:
        fields.wrong("max_seq_length", "an integer of at least 1")
    return longest, fields.flag("do_lower_case", False)


def _pooling(folder: Path) -> Pooling:
    """The pooling, and what follows it, by the list of modules."""
    file = folder / _MODULES
    if not file.is_file():
        place = folder / _POOLING / "config.json"
        return _read_pooling(place) if place.is_file() else Pooling()
    found, after = None, list[Callable[[torch.Tensor], torch.Tensor]]()
    for name, place, stated in _modules(folder, file):
        if name == "Pooling" and found is None:
            found = _read_pooling(place / "config.json")
        elif name == "Dense" and found is not None:
            after.append(_read_projection(place))
        elif name == "Normalize" and found is not None:
            after.append(to_unit_length)
        elif name != "Transformer" or found is not None:
            raise ConfigError(
                f"{file} asks for the module {shown(stated)}, which is not supported: only one Pooling behind a "
                "Transformer, and Dense and Normalize behind that. Take another model, or sentence-transformers."
            )
    found = found or Pooling()
    return Pooling(found.modes, found.include_prompt, tuple(after))


def _modules(folder: Path, file: Path) -> Iterator[tuple[str, Path, Any]]:
    """The class of each module, its folder and its full name."""
    for number, entry in enumerate(_list(file)):
        fields = Fields(entry if isinstance(entry, dict) else {}, f"{file}, module {number}")
        name, path = fields.text("type", "").rpartition(".")[2], fields.text("path", "")
        yield name, folder / Path(path).name, fields.table.get("type")


def _list(file: Path) -> list[Any]:
    try:
        content = parse_json(file.read_bytes(), str(file))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}).") from error
    if not isinstance(content, list):
        raise ConfigError(f"{file} holds {shown(content)}; expected a list of modules.")
    return content


def _fields(file: Path) -> Fields:
    if not file.is_file():
        raise ConfigError(f"{file} is absent, although {_MODULES} names it. Download the folder again.")
    return Fields(read_json(file), str(file))


def _read_pooling(file: Path) -> Pooling:
    fields = _fields(file)
    stated = fields.table.get("pooling_mode")  # newer folders name it
    modes = [] if stated is None else stated if isinstance(stated, list) else [stated]
    switched = [name for name in fields.table if name.startswith("pooling_mode_") and fields.flag(name, False)]
    modes = modes or [_SWITCHES.get(name, name) for name in sorted(switched, key=[*_SWITCHES, *switched].index)]
    odd = [mode for mode in modes if mode not in MODES]
    if odd or not modes:
        raise ConfigError(f"{file} asks for {shown(odd) if odd else 'no pooling'}. Known: {', '.join(MODES)}.")
    return Pooling(tuple(modes), fields.flag("include_prompt", True))


def _read_projection(folder: Path) -> Projection:
    file = folder / "config.json"
    fields = _fields(file)
    name = fields.text("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    for key, only in (("module_input_name", _VECTOR), ("module_output_name", _VECTOR), ("use_residual", False)):
        given = fields.table.get(key)
        if given not in (None, only):
            raise ConfigError(f"{file}: {key}={shown(given)} is not supported, only {only!r}.")
    if name not in ACTIVATIONS:
        raise ConfigError(f"{file} asks for the activation {shown(name)}. Known: {', '.join(ACTIVATIONS)}.")
    weights = open_checkpoint(folder)
    bias = fields.flag("bias", True)
    missing = {"linear.weight", *(["linear.bias"] * bias)} - set(weights)
    if missing:
        raise ConfigError(f"The weights in {folder} lack {', '.join(sorted(missing))}. Download the folder again.")
    tensors = [weights.tensors(key)[0].float().clone() for key in ("linear.weight", *(["linear.bias"] * bias))]
    sizes = [fields.integer("out_features", None), fields.integer("in_features", None)]
    if list(tensors[0].shape) != sizes:
        raise ConfigError(f"The weights in {folder} have shape {list(tensors[0].shape)}, {file} says {sizes}.")
    return Projection(tensors[0], tensors[1] if bias else None, name)


def _prompts(file: Path) -> tuple[str, dict[str, str], str | None]:
    """How vectors are compared, the prompts, and the name of the default one."""
    fields = Fields(read_json(file), str(file))
    prompts = {name: text for name, text in fields.mapping("prompts").items() if text is not None}
    odd = [name for name, text in prompts.items() if not isinstance(text, str)]
    default = fields.text("default_prompt_name", None)
    if odd or (default is not None and default not in prompts):
        raise ConfigError(f"{file}: the prompt {shown(odd[0] if odd else default)} is not text. Correct the file.")
    similarity = fields.text("similarity_fn_name", "cosine") or "cosine"
    if similarity not in SIMILARITIES:
        raise ConfigError(f"{file} asks for the similarity {shown(similarity)}. Known: {', '.join(SIMILARITIES)}.")
    return similarity, prompts, default
