"""Tests of what needs no torch: the catalog, downloads, settings, tokenizers, data files and command lines.

Where torch is not installed pytest collects only these files, without their tests that are marked ``torch``. So it
tests new versions of Python in a minute (``.ci/without_torch``).
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

HAS_TORCH = find_spec("torch") is not None
TESTS = Path(__file__).parent
FILES = {
    "catalog/test_cards.py", "catalog/test_catalog.py", "catalog/test_commands.py",
    "catalog/test_packages.py", "data/test_labels.py", "data/test_tokenizer_golden.py", "data/test_tokenizer_names.py",
    "data/test_tokenizer_offsets.py", "hub/test_cache.py", "hub/test_commands.py", "hub/test_lock.py",
    "hub/test_transfer.py",
    "hub/test_secrets.py", "hub/test_slow_servers.py", "hub/test_store.py", "hub/test_versions.py",
    "portability/test_systems.py", "test_environment.py", "structure/test_modules.py",
    "structure/test_private_names.py", "structure/test_sizes.py", "test_errors.py", "test_settings.py", "test_skips.py",
    "test_typed_json.py", "train/test_records.py",
}  # fmt: skip


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out files that need torch where it is not installed, and folders that have no others."""
    if HAS_TORCH or collection_path == TESTS or not collection_path.is_relative_to(TESTS):
        return None
    path = collection_path.relative_to(TESTS).as_posix()
    return not any(name == path or name.startswith(f"{path}/") for name in FILES) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the other files, leave out the tests that are marked."""
    if not HAS_TORCH:
        left_out = [item for item in items if item.get_closest_marker("torch")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
