"""A family of a user's own, made as docs/new-architecture.md says."""

from pathlib import Path
from typing import Any

import pytest

from flagai.auto_model.auto_loader import AutoLoader
from flagai.auto_model.lookup import class_name_for
from flagai.auto_model.registry import class_named
from flagai.errors import ConfigError, InputError
from flagai.families.family import Family, ModelClass, family_named, register_family
from flagai.model.predictor.predictor import Predictor
from tests.test_docs import ROOT, blocks


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page defines, after its code ran in an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "new-architecture.md", "python"):
        exec(block, namespace)
    return namespace


def test_a_new_family_is_found_loaded_and_generates(page: dict[str, Any], tmp_path: Path) -> None:
    assert class_named("SmallModel") is page["SmallModel"]
    assert class_name_for("writing", "small") == "SmallModel"
    loader = AutoLoader("lm", model_name="small", model_dir=tmp_path, device="cpu")
    assert type(loader.get_model()) is page["SmallModel"]
    run = Predictor(loader.get_model(), loader.get_tokenizer())
    together = run.write(["the cat", "a mat on the cat"], out_max_length=6)
    assert together == [run.write(text, out_max_length=6) for text in ("the cat", "a mat on the cat")]
    assert "".join(run.stream("the cat", out_max_length=6)) == together[0]
    with pytest.raises(InputError, match=r"A SmallModel cannot do predict_ner; it can do write\. predict_ner needs"):
        run.predict_ner("the cat")
    with pytest.raises(InputError, match=r"A small model cannot do 'ner'\. It can: lm, writing\."):
        AutoLoader("ner", model_name="small", model_dir=tmp_path)


def test_a_subclass_of_a_users_family_can_do_what_its_base_can(page: dict[str, Any], tmp_path: Path) -> None:
    class Own(page["SmallModel"]):  # type: ignore[misc]
        """Adds nothing."""

    found = family_named("small").row_of(Own.from_pretrained(tmp_path / "small"))
    assert found is not None
    assert found.name == "SmallModel"


def test_a_record_that_lacks_how_its_classes_write_is_refused() -> None:
    with pytest.raises(ConfigError, match="Own has the method 'write', so family 'mute' needs `text` and `decoding`"):
        register_family(Family(name="mute", classes=(ModelClass("Own", methods=("write",)),)))


def test_a_family_that_is_not_registered_is_named() -> None:
    with pytest.raises(InputError, match=r"no family 'stranger'\. Known: glm, bert.*`register_family`"):
        class_name_for("writing", "stranger")


def test_the_librarys_families_stay_as_they_are() -> None:
    with pytest.raises(ConfigError, match="'t5' is a family of flagai"):
        register_family(Family(name="t5", classes=()))
