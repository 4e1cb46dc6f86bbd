"""Docstrings say what a caller must know: all of it in the API reference, one sentence everywhere."""

import ast

import pytest

from tests.structure.docstrings import Documented, public_objects
from tests.structure.sources import modules
from website import api

REFERENCE = sorted({f"flagai.{name}" for _, names in api.PAGES.values() for name in names})
# What users import from the package itself, and from flagai.generation, flagai.chat and flagai.hub.
SHOWN = (
    *("auto_model.auto_loader.AutoLoader", "loading.load", "listing.list_models", "data.tokenizer.tokenizer.Tokenizer"),
    *("model.predictor.embedder.SentenceEmbedder", "model.predictor.predictor.Predictor", "model.base_model.BaseModel"),
    *("generation.engine.generate", "generation.engine.stream", "generation.scheduler.Scheduler"),
    *("chat.choosing.chat_format", "hub.store.ensure", "catalog.catalog.find", "convert.convert"),
    *("checkpoint.reader.open_checkpoint", "families.family.register_family", "model.config_fields.setting"),
)
# Published methods: modules that name the paper or the program that they follow.
PUBLISHED = (
    *("families.glm", "generation.contrastive", "generation.beam_group", "generation.prompt_lookup"),
    *("generation.scheduler", "generation.processors", "model.layer.crf", "model.layer.global_pointer"),
    *("model.layer.rotary", "model.layer.adapted", "model.prefix_tuning", "parallel.fsdp", "parallel.vocab_parallel"),
    *("parallel.symmetric_memory", "parallel.tensor_parallel", "checkpoint.quantization", "train.metrics"),
    *("hub.lock", "model.block.stack", "model.layer.packed_row", "model.layer.paged_cache", "train.trainer"),
)


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_describes_every_object(name: str) -> None:
    lacking = {each.name: found for each in public_objects(modules()[name]) if (found := list(each.missing()))}
    assert lacking == {}


@pytest.mark.parametrize("name", SHOWN)
def test_what_users_import_has_an_example(name: str) -> None:
    module, _, shown = f"flagai.{name}".rpartition(".")
    *_, found = (each for each in public_objects(modules()[module]) if each.name == f"{module}.{shown}")
    assert ">>> " in found.section("Example")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_method_names_its_source(name: str) -> None:
    text = "".join(
        ast.get_docstring(node) or "" for node in ast.walk(modules()[f"flagai.{name}"].tree) if documents(node)
    )
    assert "Source:" in text or "Sources:" in text


def documents(node: ast.AST) -> bool:
    return isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)


def test_no_docstring_sends_the_reader_away() -> None:
    for name, module in modules().items():
        assert not any(
            "See the base class" in (ast.get_docstring(node) or "") for node in ast.walk(module.tree) if documents(node)
        ), name


def described(source: str) -> list[str]:
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    return list(Documented("function", node, source.splitlines()).missing())


@pytest.mark.parametrize(
    ("docstring", "missing"),
    [
        ("", ["a docstring"]),
        ("See the base class.", ["a docstring"]),
        ("Add.", ["Args: first", "Args: second", "Shape", "Returns", "Raises"]),
        ("The sum [B] of first and second.", ["Raises"]),
        (
            "Add first to second.\n\n    Shape:\n        -> [B]\n\n    Raises:\n        E: always.\n    ",
            [],
        ),
    ],
)
def test_what_a_docstring_lacks_is_found(docstring: str, missing: list[str]) -> None:
    body = f'    """{docstring}"""\n    raise E\n'
    assert described(f"def add(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:\n{body}") == missing
