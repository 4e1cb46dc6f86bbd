"""Real weights, end to end, beside transformers; run with ``--real FOLDER`` (CONTRIBUTING.md says how to fill it)."""

import gzip
import json

import pytest
import torch

from benchmarks.stsb import spearman
from flagai.auto_model.auto_loader import AutoLoader
from flagai.model.predictor.predictor import Predictor

pytestmark = pytest.mark.slow
TEXTS = [
    "translate English to German: The house is wonderful.",
    "summarize: A storm hit the coast on Monday, and thousands of people had to leave their homes before the evening.",
    "What is the capital of France?",
]


@pytest.fixture
def real(request):
    folder = request.config.getoption("--real")
    if folder is None:
        pytest.skip("no --real FOLDER")
    return folder


def predictor(task, folder):
    loader = AutoLoader(task, model_name=str(folder), device="cpu", torch_dtype="float32")
    return Predictor(loader.get_model(), loader.get_tokenizer())


@pytest.mark.parametrize("beams", [1, 4])
def test_the_titler_writes_as_in_transformers(beams, real):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    reference = AutoModelForSeq2SeqLM.from_pretrained(real / "titler", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(real / "titler")
    options = {"num_beams": beams, "length_penalty": 1.0, "early_stopping": False}
    expected = []
    for text in TEXTS:
        ids = reference.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=40, do_sample=False, **options)
        expected.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    found = predictor("title-generation", real / "titler").write(TEXTS, out_max_length=40, **options)
    assert found == expected
    assert found[0] == "Das Haus ist wunderbar."


def test_the_entities_of_a_sentence(real):
    text = "My name is Sarah Connor and I live at 42 Baker Street, Springfield. Mail sarah@example.com."
    found = predictor("ner", real / "rampart").predict_ner(text)
    named = [(text[start : end + 1], label) for start, end, label in found]
    assert named[:5] == [
        ("Sarah", "GIVEN_NAME"),
        ("Connor", "SURNAME"),
        ("42", "BUILDING_NUMBER"),
        ("Baker Street", "STREET_NAME"),
        ("Springfield", "CITY"),
    ]
    assert {label for _, label in named[5:]} == {"EMAIL"}


def test_chinese_similarity_equals_transformers(real):
    from transformers import BertModel, BertTokenizerFast

    folder = real / "me5-small-bert-zh"
    with gzip.open(real / "stsb_zh" / "test.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines][:200]
    scores = torch.tensor([pair["score"] for pair in pairs], dtype=torch.double)
    texts = [pair[key] for key in ("text1", "text2") for pair in pairs]
    ours = predictor("embedding", folder).predict_embedding(texts)
    reference = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    with torch.inference_mode():
        theirs = torch.cat(
            [reference(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1) for text in texts]
        )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    first, second = (
        spearman(torch.cosine_similarity(vectors[:200], vectors[200:]).double(), scores) for vectors in (ours, theirs)
    )
    # Pairs whose scores differ in the last bit change places from machine to machine; with 200, each counts 5e-5.
    assert first == pytest.approx(second, abs=2e-4)
