"""The main job on real weights: embeddings equal transformers', whatever the batch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from flagai.catalog.packages import find_model
from flagai.data.tokenizer import Tokenizer
from flagai.errors import FlagAIError, InputError, ModelNotFoundError, VocabularyError
from flagai.model.predictor.embedder import SentenceEmbedder

MINILM = find_model("all-minilm-l6-V2")
SENTENCES = [
    "A man is playing a guitar.",
    "Someone plays an instrument.",
    "The sky is blue.",
    "",
    "word " * 400,
    "Café naïve — 北京 is the capital of 中国! \U0001f600",
    "\ud800 a lone surrogate, a \x00 NUL",
]


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder.from_folder(MINILM, max_length=512)  # its own limit is 256


@pytest.fixture(scope="module")
def reference() -> torch.Tensor:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(MINILM)
    model = transformers.BertModel.from_pretrained(MINILM, dtype=torch.float32).eval()
    rows = []
    for text in SENTENCES:
        clean = text.replace("\ud800", "\ufffd")
        inputs = tokenizer(clean, return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            rows.append(model(**inputs).last_hidden_state[0].mean(0))
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)  # as the folder's modules say


def test_embeddings_equal_transformers(embedder: SentenceEmbedder, reference: torch.Tensor) -> None:
    torch.testing.assert_close(embedder.embed(SENTENCES), reference, atol=1e-5, rtol=1e-5)


def test_a_sentence_alone_equals_the_sentence_in_a_batch(embedder: SentenceEmbedder) -> None:
    together = embedder.embed(SENTENCES)
    for text, row in zip(SENTENCES, together, strict=True):
        torch.testing.assert_close(embedder.embed([text])[0], row, atol=1e-5, rtol=1e-5)


def test_batches_are_bounded_and_keep_the_order(embedder: SentenceEmbedder) -> None:
    """Two thousand tokens go into one batch."""
    sizes: list[int] = []
    hook = embedder.model.model.blocks.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[1]))
    texts = [f"{number}{text}" for number, text in enumerate(SENTENCES * 6)]
    found = embedder.embed(texts)
    hook.remove()
    assert len(sizes) > 1
    assert max(sizes) <= 2048
    for text, row in zip(texts, found, strict=True):
        torch.testing.assert_close(embedder.embed([text])[0], row, atol=1e-5, rtol=1e-5)


def test_similar_sentences_score_higher(embedder: SentenceEmbedder) -> None:
    guitar, instrument, sky = SENTENCES[:3]
    similar, different = embedder.match([guitar, guitar], [instrument, sky]).tolist()
    assert similar == pytest.approx(0.6674, abs=1e-4)
    assert different < 0.2


def test_normalized_vectors_have_length_one(embedder: SentenceEmbedder) -> None:
    torch.testing.assert_close(embedder.embed(SENTENCES, normalize=True).norm(dim=-1), torch.ones(len(SENTENCES)))


def test_no_sentences_give_an_empty_table(embedder: SentenceEmbedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


@pytest.mark.parametrize("wrong", ["one sentence", [1], [None]])
def test_what_is_no_list_of_text_is_refused(embedder: SentenceEmbedder, wrong: Any) -> None:
    with pytest.raises(InputError):
        embedder.embed(wrong)


def test_unpaired_sentences_are_refused(embedder: SentenceEmbedder) -> None:
    with pytest.raises(InputError, match="1 and 2"):
        embedder.match(["a"], ["b", "c"])


# -- the tokenizer ------------------------------------------------------------------------------------------------


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "今", "天", "a", "##b", "Café", "cafe", "!", "\u2028", "c"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("text", ["今天", "Café ab!", "ABC [MASK] 天c", "zzz", " \u3000 今\ta"])
@pytest.mark.parametrize("lower", [True, False])
def test_vocab_txt_equals_transformers(vocabulary: Path, text: str, lower: bool) -> None:
    (vocabulary / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    theirs = transformers.BertTokenizerFast(
        str(vocabulary / "vocab.txt"), do_lower_case=lower, strip_accents=None, tokenize_chinese_chars=True
    )
    assert Tokenizer.from_folder(vocabulary).encode_plus(text)["input_ids"] == theirs(text)["input_ids"]


def test_pairs_have_types(vocabulary: Path) -> None:
    sample = Tokenizer.from_folder(vocabulary).encode_plus("今", "天")
    assert sample == {"input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 1, 1]}


def test_tokenizer_json_neither_pads_nor_truncates() -> None:
    assert len(Tokenizer.from_folder(MINILM).encode_plus("word " * 300)["input_ids"]) == 302


@pytest.mark.parametrize("content", [None, "no\nspecial\ntokens\n"])
def test_missing_or_wrong_vocabulary_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "vocab.txt").write_text(content)
    with pytest.raises(FlagAIError, match=r"vocab\.txt"):
        Tokenizer.from_folder(tmp_path)


def test_damaged_tokenizer_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(VocabularyError, match=r"tokenizer\.json is not valid JSON"):
        Tokenizer.from_folder(tmp_path)


def test_a_name_in_the_place_of_a_folder_is_told_the_cure() -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"There is no folder .*SentenceEmbedder.from_pretrained\('all-MiniLM-L6-v2'\)"
    ):
        SentenceEmbedder.from_folder("all-MiniLM-L6-v2")


@pytest.mark.slow
def test_compiled_blocks_give_the_same(embedder: SentenceEmbedder) -> None:
    compiled = SentenceEmbedder.from_folder(MINILM, compile=True)
    torch.testing.assert_close(compiled.embed(SENTENCES), embedder.embed(SENTENCES), atol=1e-5, rtol=1e-5)
    assert all(block._compiled_call_impl is not None for block in compiled.model.model.blocks)
