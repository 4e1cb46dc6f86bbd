"""Sentence embeddings trained on pairs: the loss and the folder are those of sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from flagai.catalog.packages import find_model
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.train.contrastive import in_batch_loss
from flagai.train.finetune import finetune
from flagai.train.recipe import Recipe
from flagai.train.records import Record
from flagai.train.tasks import objective_for
from tests import folders

THINGS = ("guitar", "river", "table", "teacher", "garden", "letter", "window", "horse", "winter", "machine")
PAIRS = [{"text1": f"the {word}", "text2": f"a story of some {word} and its owner"} for word in THINGS]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding")
    folders.write(folder, "BERT-base-en", "BertModel")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return folder


def test_the_loss_is_that_of_sentence_transformers() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(6, 8), torch.randn(6, 8)
    theirs: Any = MultipleNegativesRankingLoss(None, scale=20.0)
    wanted = theirs.compute_loss_from_embeddings([first, second], None)
    assert in_batch_loss(first, second, torch.arange(12), 0.05) == pytest.approx(float(wanted), rel=1e-6)


def test_equal_texts_are_no_negatives() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(3, 8), torch.randn(3, 8)
    numbers = torch.tensor([0, 1, 2, 3, 4, 3])  # the partners of the first and the last are equal
    kept = in_batch_loss(first[1:2], second[1:2], torch.tensor([1, 4]), 1.0)
    assert float(kept) == 0
    scores = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=-1)
    scores[0, 2] = scores[2, 0] = -torch.inf
    wanted = torch.nn.functional.cross_entropy(scores, torch.arange(3))
    assert float(in_batch_loss(first, second, numbers, 1.0)) == pytest.approx(float(wanted), rel=1e-6)


def test_pairs_are_learned_and_read_by_sentence_transformers(home: Path) -> None:
    recipe = Recipe(epochs=30, batch_tokens=400, learning_rate=5e-3, evaluate_every=5, patience=20)
    data = home / "pairs.jsonl"
    measured = finetune("embedding", "BERT-base-en", data, home / "mine", valid=data, model_dir=home, recipe=recipe)
    texts = [pair[side] for pair in PAIRS for side in ("text1", "text2")]
    before = SentenceEmbedder.from_pretrained(home / "BERT-base-en").embed(texts, normalize=True)
    after = SentenceEmbedder.from_pretrained(home / "mine").embed(texts, normalize=True)
    chance = float(((before[::2] @ before[1::2].T).argmax(-1) == torch.arange(10)).float().mean())
    assert measured["accuracy"] == pytest.approx(
        float(((after[::2] @ after[1::2].T).argmax(-1) == torch.arange(10)).float().mean())
    )
    assert measured["accuracy"] >= 0.8 > chance
    theirs = SentenceTransformer(str(home / "mine"), device="cpu").encode(texts, normalize_embeddings=True)
    assert torch.allclose(after, torch.from_numpy(theirs), atol=1e-5)


def test_a_batch_is_embedded_as_by_the_folder(home: Path) -> None:
    """MiniLM's folder pools and normalises; its loss is that of the vectors that SentenceEmbedder gives."""
    folder = find_model("all-MiniLM-L6-v2")
    records = [Record(pair, f"row {number}") for number, pair in enumerate(PAIRS)]
    embedder, tokenizer = SentenceEmbedder.from_pretrained(folder), Tokenizer.from_folder(folder)
    objective = objective_for("embedding", "bert", records, Recipe())
    with torch.no_grad():
        loss = objective.loss(embedder.model, objective.batch(tokenizer, records, 0), tokenizer)
    vectors = [embedder.embed([pair[side] for pair in PAIRS]) for side in ("text1", "text2")]
    wanted = in_batch_loss(*vectors, torch.arange(20), 0.05)
    assert float(loss) == pytest.approx(float(wanted), abs=1e-4)
    assert {"modules.json", "1_Pooling/config.json"} <= objective.files(embedder.model, tokenizer).keys()


def test_what_is_no_pair(home: Path) -> None:
    with pytest.raises(InputError, match="there is no column 'text2'"):
        objective_for("embedding", "bert", [Record({"text1": "a"}, "row 1")], Recipe())
    with pytest.raises(InputError, match="'embedding' is trained with models of bert, not of gpt2"):
        objective_for("embedding", "gpt2", [Record(PAIRS[0], "row 1")], Recipe())
