"""``flagai.load``, ``flagai.list_models`` and the names that packages offer."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flagai
from flagai.catalog.catalog import find_for_task
from flagai.catalog.tasks import ALIASES, DEFAULT_MODELS, task_named
from flagai.errors import CatalogError, HubError, InputError, ModelNotFoundError
from flagai.model.predictor.results import Classified, Entity, Filled, Written
from flagai.pipelines import PIPELINES
from tests import folders

PACKAGES = (
    "flagai",
    "flagai.auto_model",
    "flagai.model",
    "flagai.model.predictor",
    "flagai.data.tokenizer",
    "flagai.generation",
)
POEM = "江水东流千万里，星河北斗一千家。玉箫吹彻秋风夜，明月飞升仙桂花。"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    folders.write(home, "GLM-large-ch", "GLMModel")
    folders.write(home, "GPT2-base-ch", "GPT2Model")
    for task, name, classes in (
        ("ner", "BertForSequenceLabeling", 7),
        ("semantic-matching", "BertForClsClassifier", 2),
    ):
        folders.write(home, "RoBERTa-base-ch", name, class_num=classes)
        (home / "RoBERTa-base-ch").rename(home / f"RoBERTa-base-ch-{task}")
    folders.write(home, "RoBERTa-base-ch", "BertModel")
    return home


# -- names ------------------------------------------------------------------------------------------------------------


def test_importing_flagai_imports_no_torch():
    statement = (
        "import sys, flagai; dir(flagai); flagai.list_models; from flagai import load; print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_offers_its_names(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
        assert name in dir(module)
        assert importlib.util.find_spec(f"{package}.{name}") is None, "a name hides a submodule"
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing_like_it'$"):
        _ = module.nothing_like_it


@pytest.mark.parametrize("package", PACKAGES)
def test_checkers_and_python_see_the_same_names(package):
    """The imports for type checkers are written out beside the table of those at run time."""
    module = importlib.import_module(package)
    text = Path(module.__file__).read_text(encoding="utf-8")
    typed = text.partition("if TYPE_CHECKING:\n")[2].partition("else:\n")[0]
    assert sorted(line.split()[-1] for line in typed.splitlines()) == sorted(module.__all__)
    for line in typed.splitlines():
        _, home, _, name, _, _ = line.split()
        assert getattr(importlib.import_module(home), name) is getattr(module, name)


def test_a_near_name_is_offered():
    with pytest.raises(AttributeError, match=r"no attribute 'Autoloader'. Did you mean 'AutoLoader'"):
        _ = flagai.Autoloader
    with pytest.raises(ImportError, match="GLMForSeq2seq"):
        from flagai.model import GLMForSeq2seq  # noqa: F401


def test_flagais_long_paths_stay():
    from flagai.auto_model.auto_loader import AutoLoader
    from flagai.data.tokenizer import Tokenizer
    from flagai.model.predictor.predictor import Predictor

    assert (flagai.AutoLoader, flagai.Tokenizer, flagai.Predictor) == (AutoLoader, Tokenizer, Predictor)


# -- load -------------------------------------------------------------------------------------------------------------


def test_every_task_has_a_pipeline_and_the_defaults_are_of_tasks():
    for name in (*PIPELINES, *ALIASES):
        assert task_named(name) in PIPELINES
    assert DEFAULT_MODELS.keys() <= PIPELINES.keys()


def test_a_poem_as_the_readme_shows_it():
    poet = flagai.load("poetry")
    assert poet("春江花月夜", seed=0) == POEM
    assert poet("春江花月夜：七言绝句", seed=0) == POEM
    assert "".join(poet.stream("春江花月夜", seed=0)) == POEM
    assert poet(["春江花月夜"] * 2, seed=0) == [POEM] * 2
    assert repr(poet) == "<TextGenerationPipeline 'poetry': GLM-mini-ch, GLMForSeq2Seq, cpu>"
    assert poet.predictor.model is poet.model
    best = poet("春江花月夜", seed=0)
    assert repr(best) == f"WrittenText(text={POEM!r}, score={best.score!r}, finished={best.finished})"
    several = poet("春江花月夜", seed=0, num_return_sequences=2)
    assert all(isinstance(each, Written) for each in several)
    assert POEM in [each.text for each in several]
    with pytest.warns(FutureWarning, match="n_best"):
        assert poet("春江花月夜", seed=0, n_best=2) == several


def test_another_strategy_leaves_the_tasks_own_aside():
    poet, title = flagai.load("poetry"), flagai.load("title", "GLM-mini-ch")
    own = poet.predictor
    rules = {"logits_processors": [poet.rules(["秋：七言绝句"])]}
    wanted = own.write("秋：七言绝句", 256, 9, num_beams=2, **rules)
    assert poet("秋", num_beams=2, max_new_tokens=9) == wanted
    assert poet("秋", do_sample=False, max_new_tokens=9) == own.write("秋：七言绝句", 256, 9, **rules)
    drawn = own.write("第一条 aB".lower(), 512, 9, do_sample=True, seed=1)
    assert title("第一条 aB", do_sample=True, seed=1, max_new_tokens=9) == drawn
    contrasted = own.write("第一条", 512, 9, penalty_alpha=0.5, top_k=3)
    assert title("第一条", penalty_alpha=0.5, top_k=3, out_max_length=9) == contrasted


def test_each_task_answers_with_its_result(home):
    filled = flagai.load("masklm", download_path=home)("今天[MASK]好", max_new_tokens=3)
    assert isinstance(filled[0], Filled)
    ner = flagai.load("ner", download_path=home)
    entities = ner("今天北京天气很好")
    assert all(isinstance(each, Entity) for each in entities)
    assert ner(["今天北京天气很好", ""]) == [entities, []]
    classify = flagai.load("classification", "RoBERTa-base-ch-semantic-matching", download_path=home)
    label, score = found = classify("今天天气很好")
    assert isinstance(found, Classified)
    assert found.scores[label] == score == max(found.scores.values())
    assert len(classify(["今天", "明天"])) == 2, "a list is a batch, never a pair"
    assert classify([("今天", "明天")]) == [classify(("今天", "明天"))]
    prompted = flagai.load("classification", "GPT2-base-ch", download_path=home)
    assert prompted("今天", labels=["好", "坏"]).label in ("好", "坏")


def test_pairs_are_compared_by_a_trained_head_or_by_embeddings(home):
    trained = flagai.load("semantic-matching", "RoBERTa-base-ch-semantic-matching", download_path=home)
    assert trained([("今天", "明天")]) == [trained(("今天", "明天"))]
    assert 0 <= trained(("今天", "明天")) <= 1
    assert trained(("今天", "明天")).measure == "probability"
    plain = flagai.load("semantic-matching", "RoBERTa-base-ch", download_path=home)
    assert plain(("今天", "今天")) == pytest.approx(1)
    assert plain(("今天", "今天")).measure == "cosine"
    with pytest.raises(InputError, match="Expected a pair of texts"):
        plain(["今天", "明天"])


def test_embeddings_are_those_of_the_sentence_embedder(home):
    embed = flagai.load("embedding", str(home / "RoBERTa-base-ch"))
    vectors = embed(["今天", "明天很好"])
    wanted = flagai.SentenceEmbedder(embed.model, embed.tokenizer).embed(["今天", "明天很好"])
    assert torch.equal(vectors, wanted)
    assert torch.equal(embed("今天"), vectors[0])
    assert embed("今天", normalize=True).norm() == pytest.approx(1)
    assert embed.embedder is embed.embedder  # its arguments are checked once


def test_the_next_default_is_taken_where_the_first_cannot_be_had(tmp_path, caplog):
    writer = flagai.load("writing", download_path=tmp_path)
    assert writer.name == "GLM-mini-ch"
    assert "GPT2-base-ch cannot be fetched" in caplog.text
    assert "using GLM-mini-ch, which ships with flagai" in caplog.text


def test_what_cannot_be_loaded_says_what_can(tmp_path):
    with pytest.raises(HubError, match=r"(?s)Without a download: .*GLM-mini-ch \(poetry.*list_models\(task='ner'\)"):
        flagai.load("ner", download_path=tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"(?s)Did you mean GLM-large-ch.*Without a download"):
        flagai.load("writing", "GLM-large-hc")
    with pytest.raises(InputError, match=r"There is no task 'poems'. Known: .*poetry"):
        flagai.load("poems")
    with pytest.raises(InputError, match="'classification' has no default model"):
        flagai.load("classification")


def test_a_broken_card_hides_no_error(tmp_path, monkeypatch):
    (tmp_path / "broken.toml").write_text('["Mine"]\nfamily = "none"\n', encoding="utf-8")
    monkeypatch.setenv("FLAGAI_CARDS", str(tmp_path))
    with pytest.raises(HubError, match=r"(?s)RoBERTa-base-ch.*broken.toml"):
        flagai.load("ner", download_path=tmp_path)


@pytest.mark.parametrize(("name", "own"), [("model_name", "model"), ("model_dir", "download_path")])
def test_auto_loaders_arguments_are_named_as_load_names_them(name, own):
    with pytest.raises(InputError, match=f"no argument '{name}'. Pass it as {own}="):
        flagai.load("poetry", **{name: "GLM-mini-ch"})


def test_a_call_gives_what_stream_gives_with_a_model_of_blanks():
    writer = flagai.load("writing", "GLM-mini-ch")
    for text in ("春江", "床前明月光，[MASK]"):
        answer = writer(text, seed=1, max_new_tokens=9)
        assert answer == "".join(writer.stream(text, seed=1, max_new_tokens=9))
        assert answer in [one.text for one in writer([text], seed=1, max_new_tokens=9, num_return_sequences=2)[0]]
        assert "<|startofpiece|>" not in answer


@pytest.mark.parametrize("text", ["", " ", "花" * 21, "桃花：词", "桃花:词", "：七言绝句", "桃花："])
def test_a_poem_needs_a_title_and_a_known_form(text):
    poet = flagai.load("poetry")
    for run in (poet, poet.stream):
        with pytest.raises(InputError, match=r"is not a (title for|form of) a poem"):
            run(text)


def test_a_half_width_colon_is_a_colon():
    poet = flagai.load("poetry")
    verse = poet("桃花:五言绝句", seed=1)
    assert verse == poet("桃花：五言绝句", seed=1) != poet("桃花", seed=1)


@pytest.mark.parametrize(
    ("given", "hint"),
    [("beam_size", "num_beams"), ("alpha", "penalty_alpha"), ("max_length", "out_max_length"), ("maxlen", "input_max")],
)
def test_other_names_of_options_have_a_hint(given, hint):
    with pytest.raises(InputError, match=f"no option '{given}' of generation. Did you mean '{hint}"):
        flagai.load("poetry")("桃花", **{given: 4})


@pytest.fixture
def unfetched(tmp_path):
    """Folders as failed and partial downloads leave them."""
    for name in ("GLM-large-ch", "RoBERTa-base-ch-ner"):
        (tmp_path / name / ".flagai").mkdir(parents=True)
        (tmp_path / name / ".flagai" / "failed.json").write_text("{}")
    (tmp_path / "GPT2-base-ch").mkdir()
    (tmp_path / "GPT2-base-ch" / "vocab.txt").write_text("[PAD]\n")
    return tmp_path


def test_a_failed_download_is_not_downloaded(unfetched, monkeypatch, caplog):
    monkeypatch.setenv("FLAGAI_HOME", str(unfetched))
    here = {info.name for info in flagai.list_models() if info.downloaded and not info.shipped}
    assert not here
    with pytest.raises(HubError) as told:
        flagai.load("ner")
    assert "RoBERTa-base-ch" not in str(told.value).partition("Without a download:")[2]
    with pytest.raises(HubError):
        flagai.AutoLoader("title-generation", "GLM-large-ch")
    assert "Loading GLM-large-ch instead" not in caplog.text


# -- list_models ------------------------------------------------------------------------------------------------------


def test_models_are_listed_as_records_and_as_a_table(home):
    found = flagai.list_models("poetry")
    assert found[0].name == "GLM-mini-ch"
    assert found[0].shipped
    assert found[0].downloaded
    assert found == flagai.list_models(task="Poetry", family="glm", language="zh")
    assert repr(found).splitlines()[1].split()[:2] == ["GLM-mini-ch", "GLM"]
    here = {info.name for info in flagai.list_models(download_path=home) if info.downloaded and not info.shipped}
    assert {"GLM-large-ch", "GPT2-base-ch", "RoBERTa-base-ch"} <= here
    assert len(flagai.list_models()) > 30
    for alias, task in ALIASES.items():
        if any(task in info.tasks for info in flagai.list_models()):
            assert flagai.list_models(alias) == flagai.list_models(task)
    with pytest.raises(CatalogError, match=r"No model has the task 'flying'. Known: .*poetry"):
        flagai.list_models("flying")


@pytest.mark.parametrize("name", ["task", "family", "language", "download_path"])
def test_only_texts_name_what_is_listed(name):
    with pytest.raises(InputError, match=r"^5 is not a name of|^download_path is 5; expected"):
        flagai.list_models(**{name: 5})


@pytest.mark.parametrize("wrong", [{"model": 5}, {"download_path": 5}])
def test_only_paths_name_what_is_loaded(wrong):
    with pytest.raises(InputError, match=f"^{next(iter(wrong))} is 5; expected a text or a path"):
        flagai.load("poetry", **wrong)


@pytest.mark.parametrize("task", DEFAULT_MODELS)
def test_default_models_are_in_the_catalog(task):
    listed = {info.name for info in flagai.list_models(task)}
    assert {find_for_task(name, task).name for name in DEFAULT_MODELS[task]} <= listed
