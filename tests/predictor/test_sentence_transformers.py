"""Embeddings equal those of sentence-transformers on folders that it writes."""

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from flagai.errors import ConfigError, InputError
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.model.predictor.pooling import MODES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sentence_transformers import SentenceTransformer, models

WORDS = ["the", "cat", "sat", "on", "a", "mat", "query", "document", ":", "man", "plays", "guitar"]
LENGTHS = (0, 1, 3, 5, 9, 20, 40)
TEXTS = [" ".join(itertools.islice(itertools.cycle(WORDS[start:]), length)) for start, length in enumerate(LENGTHS)]
PROMPTS = {"query": "query : the ", "document": "document : "}
JOINED = (*((mode,) for mode in MODES), ("cls", "max", "mean"), ("lasttoken", "weightedmean"), tuple(MODES))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=17, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def built(bert: Path, modes: tuple[str, ...], *after: Any, include_prompt: bool = True, **options: Any) -> Any:
    modules = [models.Transformer(str(bert), max_seq_length=24)]
    modules.append(models.Pooling(16, pooling_mode=modes, include_prompt=include_prompt))
    return SentenceTransformer(modules=[*modules, *after], device="cpu", **options)


def saved(theirs: Any, folder: Path) -> SentenceEmbedder:
    theirs.save(str(folder))
    return SentenceEmbedder.from_folder(folder)


def assert_equal(ours: SentenceEmbedder, theirs: Any, **options: Any) -> None:
    for texts in (TEXTS, TEXTS[3]):
        found, wanted = ours.encode(texts, **options), theirs.encode(texts, **options)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("modes", JOINED, ids="-".join)
def test_every_pooling(bert: Path, modes: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = built(bert, modes)
    assert_equal(saved(theirs, tmp_path), theirs)


@pytest.mark.parametrize("modes", JOINED[:6], ids="-".join)
@pytest.mark.parametrize("counts", [True, False], ids=["prompt counts", "prompt does not count"])
def test_prompts(bert: Path, modes: tuple[str, ...], counts: bool, tmp_path: Path) -> None:
    theirs = built(bert, modes, include_prompt=counts, prompts=PROMPTS, default_prompt_name="document")
    ours = saved(theirs, tmp_path)
    assert_equal(ours, theirs)
    assert_equal(ours, theirs, prompt_name="query")
    assert_equal(ours, theirs, prompt="a cat : ", normalize_embeddings=True)
    assert_equal(ours, theirs, prompt="", truncate_dim=5)
    with pytest.raises(InputError, match="no prompt 'title'"):
        ours.encode(TEXTS, prompt_name="title")


def test_what_follows_the_pooling(bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    dense = models.Dense(32, 8), models.Dense(8, 6, bias=False, activation_function=torch.nn.Identity())
    theirs = built(bert, ("cls", "max"), *dense, models.Normalize())
    ours = saved(theirs, tmp_path)
    assert_equal(ours, theirs)
    assert ours.encode([]).shape == (0, 6)
    first, second = TEXTS[2:4], TEXTS[4:6]
    wanted = theirs.similarity_pairwise(theirs.encode(first), theirs.encode(second))
    torch.testing.assert_close(ours.match(first, second), wanted, atol=1e-5, rtol=0)


def test_products_are_compared_where_the_folder_says_so(bert: Path, tmp_path: Path) -> None:
    theirs = built(bert, ("mean",), similarity_fn_name="dot")
    ours = saved(theirs, tmp_path)
    wanted = theirs.similarity_pairwise(theirs.encode(TEXTS[:3]), theirs.encode(TEXTS[3:6]))
    torch.testing.assert_close(ours.match(TEXTS[:3], TEXTS[3:6]), wanted, atol=1e-4, rtol=0)


def test_former_files_mean_the_same(bert: Path, tmp_path: Path) -> None:
    """Switches instead of names, and the length beside the tokenizer."""
    theirs = built(bert, ("cls", "mean_sqrt_len_tokens"))
    theirs.save(str(tmp_path))
    switches = {
        "word_embedding_dimension": 16,
        "pooling_mode_mean_sqrt_len_tokens": True,
        "pooling_mode_cls_token": True,
    }
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(switches))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": True}))
    found = SentenceEmbedder.from_folder(tmp_path).encode([text.upper() for text in TEXTS])
    np.testing.assert_allclose(found, theirs.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("2_Dense/config.json", {"use_residual": True}, "use_residual"),
        ("2_Dense/config.json", {"activation_function": "my.Swish"}, "Swish"),
        ("2_Dense/config.json", {"out_features": 7}, r"shape \[8, 16\]"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "median"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "euclidean"}, "euclidean"),
    ],
)
def test_what_is_unknown_is_refused(
    bert: Path, file: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    ours = saved(built(bert, ("mean",), models.Dense(16, 8)), tmp_path)
    content = json.loads((tmp_path / file).read_text()) | changes
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        ours.encode(TEXTS)
