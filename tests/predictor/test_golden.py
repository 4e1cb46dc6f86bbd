"""What the original's predictor answers to scripted models."""

import json
from pathlib import Path

import pytest
import torch

from flagai.data.prepare.bert import BertInput
from flagai.data.prepare.labels import decode
from flagai.model.bert_model import BertForMaskLM, BertForSequenceLabeling, BertForSequenceLabelingGP, BertModel
from flagai.model.layer import PackedRow
from flagai.model.predictor.entities import read_entities

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def wrappers(method):
    return [row for row in golden("predict_wrappers")["rows"] if row["method"] == method]


@pytest.mark.parametrize("row", wrappers("predict_masklm"), ids=lambda row: row["text"])
def test_masked_words(row, predictor, monkeypatch):
    def forward(self, input_ids, lengths, token_type_ids):
        chosen = torch.where(input_ids == 103, 1266, input_ids)
        return {"logits": torch.nn.functional.one_hot(chosen, 21128).float()}

    monkeypatch.setattr(BertForMaskLM, "forward", forward)
    assert predictor("RoBERTa-base-ch", "BertForMaskLM").predict_masklm(row["text"]) == row["result"]


@pytest.mark.parametrize("row", wrappers("predict_embedding"), ids=lambda row: row["text"])
def test_embeddings(row, predictor, monkeypatch):
    def forward(self, input_ids, lengths):
        assert input_ids.tolist() == row["model_input"]["input_ids"]
        return {"hidden_states": 4.0 * PackedRow.of(lengths).positions()[..., None] + torch.arange(4)}

    monkeypatch.setattr(BertModel, "forward", forward)
    found = predictor("RoBERTa-base-ch", "BertForEmbedding").predict_embedding(row["text"])
    assert found.tolist() == row["result"]


@pytest.mark.parametrize("row", wrappers("predict_cls_classifier"), ids=lambda row: str(row["text"]))
def test_classes(row, predictor, monkeypatch):
    run = predictor("RoBERTa-base-ch", "BertForClsClassifier", class_num=3)

    def forward(input_ids, lengths, token_type_ids):
        assert input_ids.tolist() == row["model_input"]["input_ids"]
        assert token_type_ids.tolist() == row["model_input"]["segment_ids"]
        return {"logits": torch.tensor([[0.1, 0.7, 0.2]])}

    monkeypatch.setattr(run.model, "forward", forward)
    assert run.predict_cls_classifier(row["text"]) == row["result"] == 1


HEADS = {"plain": "BertForSequenceLabeling", "crf": "BertForSequenceLabelingCRF", "gp": "BertForSequenceLabelingGP"}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("row", golden("ner_predict")["rows"], ids=lambda row: row["text"][:6])
def test_entities(row, head, predictor, monkeypatch):
    data = golden("ner_predict")
    target = data["gp_target"] if head == "gp" else data["target"]
    run = predictor("RoBERTa-base-ch", HEADS[head], class_num=len(target))
    expected = row["out"]["v1_with_cls_sep"]

    def label_scores(self, input_ids, lengths, token_type_ids):
        assert input_ids.shape[1] == len(expected["tokens"])
        return {"logits": torch.nn.functional.one_hot(torch.tensor([expected["labels"]]), 7) * 10.0 - 5}

    def span_scores(self, input_ids, lengths, token_type_ids):
        scores = torch.full((1, len(target), input_ids.shape[1], input_ids.shape[1]), -5.0)
        for first, last, kind in row["token_entities"]:
            if last + 2 < input_ids.shape[1]:
                scores[0, target.index(kind), first + 1, last + 1] = 2.0
        return {"logits": scores}

    monkeypatch.setattr(
        BertForSequenceLabelingGP if head == "gp" else BertForSequenceLabeling,
        "forward",
        span_scores if head == "gp" else label_scores,
    )
    if head == "crf":
        torch.nn.init.zeros_(run.model.crf.transitions)
    found = run.predict_ner(row["text"], target, maxlen=row["maxlen"])
    assert [list(entity) for entity in found] == expected["entities"][head]


@pytest.mark.parametrize("case", golden("ner_crf_and_labels")["viterbi"], ids=lambda case: str(len(case["path"])))
def test_the_best_path_of_a_crf(case, predictor):
    target = golden("ner_crf_and_labels")["target"]
    model = predictor("RoBERTa-base-ch", "BertForSequenceLabelingCRF", class_num=7).model
    with torch.no_grad():
        model.crf.transitions.copy_(torch.tensor(case["trans"]))
    count = len(case["path"])
    row = BertInput([0] * count, [0] * count, [(index, index + 1) for index in range(count)], [False] * count)
    (found,) = read_entities(model.crf, [torch.tensor(case["emissions"])], target, [row])
    # The labels are the original's; what they mean is in tests/data/test_labels.py.
    assert [span for span, _ in found] == decode(case["path"], target, row.offsets)


@pytest.mark.parametrize("row", golden("glm_blank_filling")["rows"], ids=lambda row: row["text"][:6])
def test_blanks(row, predictor):
    """The original puts a space behind every command token; the text is that of THUDM's decoder."""
    script = iter(row["script_ids"])

    def scripted(ids, scores):
        forced = torch.full_like(scores, -torch.inf)
        forced[..., next(script)] = 0.0
        return forced

    run = predictor("GLM-large-ch", "GLMModel")
    found = run.predict_generate_randomsample(
        row["text"], out_max_length=row["out_max_length"], top_k=1, logits_processors=[scripted]
    )
    assert found == row["result"].replace("] ", "]").replace("|> ", "|>").replace("> <", "><")
