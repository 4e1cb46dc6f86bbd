"""Every environment variable that flagai reads; no other module reads one.

The values are read when they are asked for, so a program may set them at any time before.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from flagai.errors import ConfigError


@dataclass(frozen=True)
class Variable:
    """An environment variable."""

    name: str  # as the shell spells it
    default: str  # what holds where it is not set, in words
    about: str  # what it is for


VARIABLES = (
    Variable("FLAGAI_HOME", "./checkpoints", "The model directory: the default of `download_path`."),
    Variable("FLAGAI_CARDS", "none", "A folder with cards of your own; several are separated as in PATH."),
    Variable("FLAGAI_OFFLINE", "0", "1 opens no connection: everything must be present."),
    Variable("FLAGAI_BAAI_URL", "https://model.baai.ac.cn", "The address of the BAAI model hub, or of a mirror."),
    Variable("HF_HUB_OFFLINE", "0", "Hugging Face's switch; means the same as FLAGAI_OFFLINE."),
    Variable("HF_ENDPOINT", "https://huggingface.co", "The Hugging Face hub, or a mirror: https://hf-mirror.com."),
    Variable("HF_TOKEN", "none", "The access token for the Hugging Face hub; sent to HF_ENDPOINT only."),
    Variable("HF_HOME", "~/.cache/huggingface", "Where Hugging Face keeps its files."),
    Variable("HF_HUB_CACHE", "$HF_HOME/hub", "Where Hugging Face keeps downloaded models; they are used."),
    Variable("MODELSCOPE_DOMAIN", "www.modelscope.cn", "The ModelScope hub, with or without https://."),
    Variable("MODELSCOPE_API_TOKEN", "none", "The access token for ModelScope; sent to MODELSCOPE_DOMAIN only."),
    Variable("FLAGAI_API_KEY", "none", "A key that clients of `flagai serve` must send; see also --api-key-file."),
    Variable("NO_COLOR", "none", "Set to anything, the command line prints without colours."),
    Variable("LC_ALL", "none", "A value that begins with zh gives the command line's help in Chinese."),
    Variable("LC_MESSAGES", "none", "The same, where LC_ALL is not set."),
    Variable("LANG", "none", "The same, where neither of them is set."),
    Variable("RANK", "0", "torchrun's number of this process among all."),
    Variable("WORLD_SIZE", "1", "torchrun's number of processes."),
    Variable("LOCAL_RANK", "0", "torchrun's number of this process on its machine."),
    Variable("LOCAL_WORLD_SIZE", "1", "torchrun's number of processes on this machine."),
)

# Reports about their use that trackers of experiments would send by themselves; what the user sets stays.
_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_ERROR_REPORTING": "false",
    "DO_NOT_TRACK": "1",
}

# Variables of other programs that decide how models run; the beginnings of names.
_OTHERS = (
    *("CUDA_", "HIP_", "ROCR_", "ASCEND_", "PYTORCH_", "TORCH", "TRITON_", "NCCL_", "ACCELERATE_", "OMP_"),
    *("MKL_", "KMP_", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONPATH", "LANG", "LC_", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "TMPDIR"),
)
_SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL")
_YES = ("1", "on", "yes", "true")
_NO = ("", "0", "off", "no", "false")


def home() -> Path:
    """The model directory, the default of ``download_path``."""
    return _path("FLAGAI_HOME", "./checkpoints")


def card_folders() -> tuple[Path, ...]:
    """The folders with the user's own cards, the most important first."""
    return tuple(Path(entry).expanduser() for entry in _text("FLAGAI_CARDS").split(os.pathsep) if entry)


def offline() -> bool:
    """Whether no connection may be opened.

    Raises:
        ConfigError: a variable is neither yes nor no.
    """
    return _switch("FLAGAI_OFFLINE") or _switch("HF_HUB_OFFLINE")


def baai_url() -> str:
    """The address of the BAAI model hub, without a slash at the end."""
    return _url("FLAGAI_BAAI_URL", "https://model.baai.ac.cn")


def hf_url() -> str:
    """The address of the Hugging Face hub, without a slash at the end."""
    return _url("HF_ENDPOINT", "https://huggingface.co")


def hf_token() -> str | None:
    """The access token for the Hugging Face hub, if one is set."""
    return _text("HF_TOKEN") or None


def hf_cache() -> Path:
    """The folder where Hugging Face keeps downloaded models."""
    return _path("HF_HUB_CACHE", _path("HF_HOME", "~/.cache/huggingface") / "hub")


def api_key() -> str | None:
    """The key that clients of the HTTP service must send, if one is set."""
    return _text("FLAGAI_API_KEY") or None


def modelscope_url() -> str:
    """The address of the ModelScope hub, without a slash at the end."""
    domain = _url("MODELSCOPE_DOMAIN", "www.modelscope.cn")
    return domain if "://" in domain else f"https://{domain}"


def modelscope_token() -> str | None:
    """The access token for ModelScope, if one is set."""
    return _text("MODELSCOPE_API_TOKEN") or None


def rank() -> int:
    """The number of this process among all that torchrun started; 0 without torchrun."""
    return _number("RANK", 0)


def world_size() -> int:
    """How many processes torchrun started; 1 without torchrun."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process among those of its machine; 0 without torchrun."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """How many processes torchrun started on this machine; 1 without torchrun."""
    return _number("LOCAL_WORLD_SIZE", 1)


def disable_telemetry() -> None:
    """Let libraries that are imported from now on send no reports about their use."""
    for name, value in _TELEMETRY.items():
        os.environ.setdefault(name, value)


def no_color() -> bool:
    """Whether output has no colours (https://no-color.org): the variable is set to anything."""
    return bool(_text("NO_COLOR"))


def telling() -> dict[str, str]:
    """The variables that are set and matter to a report of a bug; of secrets only that they are set."""
    wanted = (*(variable.name for variable in VARIABLES), *_OTHERS)
    return {
        name: "(hidden)" if _SECRET.search(name.upper()) else _without_login(value)
        for name, value in sorted(os.environ.items())
        if name.upper().startswith(wanted)
    }


def _without_login(value: str) -> str:
    """A value whose addresses have neither users and passwords nor queries."""
    if "://" not in value:
        return value
    return re.sub(r"\?\S*", "?***", re.sub(r"//[^/\s]*@", "//***@", value))


def is_chinese() -> bool:
    """Whether the user's language is Chinese, by the variables of POSIX in their order."""
    return (_text("LC_ALL") or _text("LC_MESSAGES") or _text("LANG")).lower().startswith("zh")


def _text(name: str) -> str:
    return os.environ.get(name, "").strip()


def _path(name: str, default: str | Path) -> Path:
    try:
        return Path(_text(name) or default).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{name}={_text(name)!r}: there is no such home folder. Write the path in full.") from error


def _url(name: str, default: str) -> str:
    return (_text(name) or default).rstrip("/")


def _number(name: str, default: int) -> int:
    value = _text(name) or str(default)
    if not value.isdecimal():
        raise ConfigError(f"{name}={value!r} is not a number. Unset it, or start the processes with torchrun.")
    return int(value)


def _switch(name: str) -> bool:
    value = _text(name).lower()
    if value not in _YES + _NO:
        raise ConfigError(f"{name}={value!r} is neither yes nor no. Set it to 1 or 0.")
    return value in _YES
