"""Environment variables: read in one module, when they are asked for, and all documented."""

import re
from pathlib import Path

import pytest

from flagai import settings
from flagai.errors import ConfigError, OfflineError

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "flagai"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in settings.VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)


def test_no_other_module_reads_the_environment() -> None:
    readers = [path.name for path in SOURCE.rglob("*.py") if re.search(r"\bos\.(environ|getenv)", path.read_text())]
    assert readers == ["settings.py"]


def test_every_variable_is_listed() -> None:
    names = set(re.findall(r'_(?:text|url|path|switch|number)\("([A-Z_]+)"', (SOURCE / "settings.py").read_text()))
    assert names == {variable.name for variable in settings.VARIABLES}


def test_defaults() -> None:
    assert settings.home() == Path("checkpoints")
    assert settings.card_folders() == ()
    assert not settings.offline()
    assert settings.baai_url() == "https://model.baai.ac.cn"
    assert settings.hf_url() == "https://huggingface.co"
    assert settings.hf_token() is None
    assert settings.hf_cache() == Path.home() / ".cache/huggingface/hub"
    assert settings.modelscope_url() == "https://www.modelscope.cn"
    assert (settings.rank(), settings.world_size()) == (0, 1)
    assert (settings.local_rank(), settings.local_world_size()) == (0, 1)


def test_values_are_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGAI_HOME", "~/models")
    monkeypatch.setenv("FLAGAI_CARDS", "/a:/b:")
    monkeypatch.setenv("FLAGAI_BAAI_URL", "http://localhost:1/")
    monkeypatch.setenv("HF_HOME", "/hf")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "http://localhost:2")
    assert settings.home() == Path.home() / "models"
    assert settings.card_folders() == (Path("/a"), Path("/b"))
    assert settings.baai_url() == "http://localhost:1"
    assert settings.hf_cache() == Path("/hf/hub")
    assert settings.modelscope_url() == "http://localhost:2"
    monkeypatch.setenv("HF_HUB_CACHE", "/cache")
    assert settings.hf_cache() == Path("/cache")


@pytest.mark.torch
def test_models_are_looked_for_in_the_home_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flagai.model.glm_model import GLMModel

    monkeypatch.setenv("FLAGAI_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("FLAGAI_OFFLINE", "1")
    with pytest.raises(OfflineError, match=re.escape(str(tmp_path / "models" / "GLM-large-ch"))):
        GLMModel.from_pretrain(model_name="GLM-large-ch")


@pytest.mark.parametrize("name", ["FLAGAI_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, meaning in (("1", True), ("YES", True), ("0", False), ("", False)):
        monkeypatch.setenv(name, value)
        assert settings.offline() is meaning
    monkeypatch.setenv(name, "perhaps")
    with pytest.raises(ConfigError, match=name):
        settings.offline()


def test_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert (settings.rank(), settings.world_size()) == (5, 8)
    assert (settings.local_rank(), settings.local_world_size()) == (1, 4)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match="RANK='first'"):
        settings.rank()
