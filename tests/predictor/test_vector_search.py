"""The nearest texts of a corpus."""

from pathlib import Path

import pytest
import torch

from flagai.auto_model.auto_loader import AutoLoader
from flagai.catalog.packages import find_model
from flagai.errors import InputError
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.model.predictor.predictor import Predictor
from flagai.model.predictor.vector_search import nearest, nearest_by_index
from tests import folders

CORPUS = ["A man plays a guitar.", "The sky is blue.", "Someone makes music.", "Cats sleep all day."]


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder.from_folder(Path(find_model("all-MiniLM-L6-v2")))


@pytest.mark.parametrize("size", [1, 7, 100])
def test_blocks_change_nothing(size: int) -> None:
    torch.manual_seed(0)
    queries, corpus = torch.randn(5, 8), torch.randint(-1, 2, (60, 8)).float()
    scores, places = nearest(queries, corpus.split(size), 10)
    wanted = (queries @ corpus.T).sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(scores, wanted.values[:, :10])
    assert torch.equal(places, wanted.indices[:, :10]), "of equal ones the first"
    few = nearest(queries, corpus[:3].split(size), 10)
    assert few[0].shape == few[1].shape == (5, 3)


@pytest.mark.parametrize("index", ["exact", "usearch"])
def test_texts_and_vectors_are_searched_alike(embedder: SentenceEmbedder, index: str) -> None:
    found = embedder.search("He plays an instrument.", CORPUS, top_k=2, index=index)
    assert [hit.place for hit in found] == [2, 0]
    assert found[0].text == CORPUS[2]
    place, score = found[0]
    assert score == pytest.approx(float(embedder.match(["He plays an instrument."], [CORPUS[place]])), abs=1e-5)
    vectors = embedder.embed(CORPUS)
    several = embedder.search(["He plays an instrument.", "animals"], vectors, top_k=9, index=index)
    assert embedder.search(["He plays an instrument.", "animals"], vectors.numpy(), top_k=9, index=index) == several
    assert [hit.place for hit in several[0]][:2] == [2, 0]
    assert several[1][0].place == 3
    assert [len(row) for row in several] == [4, 4]


def test_an_approximate_index_finds_nearly_all() -> None:
    torch.manual_seed(0)
    queries, corpus = (torch.nn.functional.normalize(torch.randn(count, 32), dim=1) for count in (20, 2000))
    exact, found = nearest(queries, [corpus], 10)[1], nearest_by_index(queries, corpus.split(512), 10)[1]
    shared = sum(len(set(one.tolist()) & set(other.tolist())) for one, other in zip(exact, found, strict=True))
    assert shared >= 180


def test_impossible_searches(embedder: SentenceEmbedder) -> None:
    with pytest.raises(InputError, match="no index 'faiss'"):
        embedder.search("a", CORPUS, index="faiss")
    with pytest.raises(InputError, match="top_k"):
        embedder.search("a", CORPUS, top_k=0)
    with pytest.raises(InputError, match="vectors of shape"):
        embedder.search("a", torch.zeros(3, 5))
    assert embedder.search("a", [], top_k=3) == []


@pytest.mark.parametrize("classes", [1, 2])
def test_texts_are_reranked_by_pairs(classes: int, tmp_path: Path) -> None:
    folders.write(tmp_path, "RoBERTa-base-ch", "BertForClsClassifier", class_num=classes)
    loader = AutoLoader("semantic-matching", "RoBERTa-base-ch", tmp_path)
    predictor = Predictor(loader.get_model(), loader.get_tokenizer())
    texts = ["一", "二三", "四五六", "七"]
    found = predictor.rerank("一个女孩", texts)
    scores = predictor.class_probabilities([["一个女孩", text] for text in texts])[:, -1].tolist()
    assert [hit.score for hit in found] == sorted(scores, reverse=True)
    assert all((hit.text, hit.score) == (texts[hit.place], scores[hit.place]) for hit in found)
    assert predictor.rerank("一个女孩", texts, top_k=2) == found[:2]
