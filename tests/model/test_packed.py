"""Packed texts (one row, no padding) give what padded rows give."""

from typing import Any

import pytest
import torch

from flagai.errors import InputError
from flagai.model.layer import Causal, Packed, PackedRow
from flagai.model.layer.mask import prepare_mask
from flagai.model.packing import PackedBatch, pack_sequences, run_packed
from tests.tiny import build, ids

LENGTHS = (7, 3, 3, 1, 7, 5)
ROW = PackedRow(LENGTHS)
TOKENS = ids(31, 1, ROW.total)
TOKENS[0, 8] = 0  # the padding token inside of a text is a real token when texts are packed
SEGMENTS = torch.randint(0, 2, (1, ROW.total), generator=torch.Generator().manual_seed(3))
PADDED = {
    "input_ids": ROW.pad(TOKENS),
    "attention_mask": ROW.valid().long(),
    "token_type_ids": ROW.pad(SEGMENTS),
}
PACKED: dict[str, Any] = {"input_ids": TOKENS, "token_type_ids": SEGMENTS, "lengths": torch.tensor(LENGTHS)}
close = {"atol": 1e-5, "rtol": 1e-5}


def both(name: str, labels: Any = None, packed_labels: Any = None, **changes: Any) -> tuple[Any, Any]:
    """What a model returns for the padded and for the packed texts."""
    model = build(name, **changes)
    with torch.no_grad():
        return model(**PADDED, labels=labels), model(**PACKED, labels=packed_labels)


def same_tokens(packed: torch.Tensor, padded: torch.Tensor) -> None:
    for ours, theirs, length in zip(ROW.split(packed), padded, LENGTHS, strict=True):
        torch.testing.assert_close(ours, theirs[:length], **close)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("BertModel", {}),
        ("BertForEmbedding", {}),
        ("BertForMaskLM", {}),
        ("BertForSequenceLabeling", {}),
        ("BertForSequenceLabelingCRF", {}),
    ],
)
def test_every_token_equals_the_padded_one(name: str, changes: dict[str, Any]) -> None:
    padded, packed = both(name, **changes)
    assert packed["hidden_states"].shape == (1, ROW.total, 12)
    same_tokens(packed["hidden_states"], padded["hidden_states"])
    same_tokens(packed["logits"], padded["logits"])


def test_every_block_equals_the_padded_one() -> None:
    model = build("BertModel")
    padded, packed = (model(**batch, output_hidden_states=True) for batch in (PADDED, PACKED))
    for ours, theirs in zip(packed["all_hidden_states"], padded["all_hidden_states"], strict=True):
        same_tokens(ours, theirs)


def test_roberta_counts_positions_per_text() -> None:
    model = build("BertModel", pad_token_id=0, position_offset=2)
    # RoBERTa finds positions by counting tokens that are not padding: compare without one inside of a text.
    tokens = TOKENS.clamp(min=1)
    padded = model(**PADDED | {"input_ids": ROW.pad(tokens)})
    same_tokens(model(**PACKED | {"input_ids": tokens})["logits"], padded["logits"])


def test_the_pooler_reads_each_first_token() -> None:
    padded, packed = both("BertModel")
    torch.testing.assert_close(packed["pooled"], padded["pooled"], **close)


def test_classes_and_loss() -> None:
    labels = torch.tensor([0, 3, 1, 2, 2, 0])
    padded, packed = both("BertForClsClassifier", labels, labels)
    torch.testing.assert_close(packed["logits"], padded["logits"], **close)
    torch.testing.assert_close(packed["loss"], padded["loss"], **close)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("BertForMaskLM", 31), ("BertForSequenceLabeling", 4), ("BertForSequenceLabelingCRF", 4)],
)
def test_losses_over_tokens(name: str, classes: int) -> None:
    labels = ids(classes, 1, ROW.total, seed=1)
    padded, packed = both(name, ROW.pad(labels, fill=-100), labels)
    torch.testing.assert_close(packed["loss"], padded["loss"], **close)


def test_global_pointer_gives_the_padded_form() -> None:
    labels = torch.zeros(len(LENGTHS), 4, 7, 7)
    labels[0, 1, 2, 4] = labels[2, 3, 0, 0] = 1
    padded, packed = both("BertForSequenceLabelingGP", labels, labels)
    assert packed["logits"].shape == padded["logits"].shape
    for ours, theirs, length in zip(packed["logits"], padded["logits"], LENGTHS, strict=True):
        torch.testing.assert_close(ours[:, :length, :length], theirs[:, :length, :length], **close)
        assert (ours[:, :, length:] < -1e9).all()
    torch.testing.assert_close(packed["loss"], padded["loss"], **close)


@pytest.mark.parametrize("gated", [False, True])
def test_t5_encoder(gated: bool) -> None:
    model = build("T5Model", **({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if gated else {}))
    padded = model.encode(PADDED["input_ids"], PADDED["attention_mask"])
    packed = model.encode(TOKENS, lengths=LENGTHS)
    same_tokens(packed, padded)
    start = torch.zeros(len(LENGTHS), 1, dtype=torch.long)
    mask = PADDED["attention_mask"]
    decoded = [
        model(encoder_outputs=memory, attention_mask=mask, decoder_input_ids=start)["logits"]
        for memory in (padded, ROW.pad(packed))
    ]
    torch.testing.assert_close(decoded[1], decoded[0], **close)


def test_gradients_equal_the_padded_ones() -> None:
    labels = ids(4, 1, ROW.total, seed=1)
    gradients = []
    for batch, gold in ((PADDED, ROW.pad(labels, fill=-100)), (PACKED, labels)):
        model = build("BertForSequenceLabeling")
        model(**batch, labels=gold)["loss"].backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **close)


def test_the_mask_is_block_diagonal_and_joins_others() -> None:
    row = PackedRow((2, 1))
    expected = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    assert torch.equal(Packed(row).dense(3, 3, torch.device("cpu"))[0, 0], expected)
    joined = prepare_mask(Packed(row) & Causal(), 3, 3, torch.device("cpu")).tensor
    assert joined is not None
    assert torch.equal(joined[0, 0], expected.tril())


# -- what does not fit together ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lengths": [7, 3]}, "add up to 10 .* shape .1, 26."),
        ({"lengths": [26, 0]}, "none without tokens"),
        ({"lengths": []}, "at least one text"),
        ({"input_ids": TOKENS.expand(2, -1)}, r"shape \[2, 26\]"),
        ({"attention_mask": torch.ones(1, 26)}, "attention_mask"),
        ({"input_ids": ids(31, 1, 44), "token_type_ids": None, "lengths": [2, 42]}, "Text 1 has 42 tokens.* 40 pos"),
    ],
)
def test_impossible_rows_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("BertModel")(**PACKED | wrong)


def test_packed_texts_are_not_decoded() -> None:
    with pytest.raises(InputError, match="causal"):
        build("BertForSeq2seq")(TOKENS, lengths=LENGTHS)
    model = build("BertModel")
    with pytest.raises(InputError, match="cache"):
        model(TOKENS, lengths=LENGTHS, cache=model.new_cache())


# -- packs --------------------------------------------------------------------------------------------------------

TEXTS = [text.tolist() for text in ROW.split(TOKENS)]
CPU = torch.device("cpu")


def test_packs_hold_every_text_once_within_the_budget() -> None:
    found = list(pack_sequences(TEXTS, device=CPU, tokens=10))
    assert all(pack.row.total <= 10 for pack in found)
    assert sorted(index for pack in found for index in pack.indices) == list(range(len(TEXTS)))
    for pack in found:
        for index, text in zip(pack.indices, pack.row.split(pack.input_ids), strict=True):
            assert text.tolist() == TEXTS[index]


def test_a_text_above_the_budget_is_a_pack_of_its_own() -> None:
    assert [pack.row.lengths for pack in pack_sequences([[1] * 3, [1] * 30], device=CPU, tokens=5)] == [(30,), (3,)]


@pytest.mark.parametrize("tokens", [1, 8, 1000])
def test_results_are_in_the_order_of_the_texts(tokens: int) -> None:
    model = build("BertForClsClassifier")
    segments = [text.tolist() for text in ROW.split(SEGMENTS)]

    def classify(pack: PackedBatch) -> torch.Tensor:
        logits: torch.Tensor = model(**pack.arguments)["logits"]
        return logits

    found = run_packed(TEXTS, classify, device=CPU, token_type_ids=segments, tokens=tokens)
    torch.testing.assert_close(torch.stack(found), model(**PADDED)["logits"], **close)


def test_means_are_those_of_each_text() -> None:
    values = torch.randn(1, ROW.total, 5)
    expected = torch.stack([text.mean(0) for text in ROW.split(values)])
    torch.testing.assert_close(ROW.mean(values), expected, **close)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([[1], []], {}, "Text 1 has no tokens"),
        ([[1], [1, 1, 1]], {"limit": 2}, "Text 1 has 3 tokens.* 2 positions"),
        ([[1], [1, 1]], {"token_type_ids": [[0], [0]]}, "token_type_ids"),
    ],
)
def test_texts_that_cannot_be_packed_are_named(texts: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(pack_sequences(texts, device=CPU, **options))


def test_no_texts_give_no_results() -> None:
    assert run_packed([], len, device=CPU) == []  # type: ignore[arg-type]


def test_bounds_lie_on_their_device_whatever_the_default_one_is() -> None:
    with torch.device("meta"):
        bounds = PackedRow((3, 2)).cu_seqlens("cpu")
    assert bounds.tolist() == [0, 3, 5]
