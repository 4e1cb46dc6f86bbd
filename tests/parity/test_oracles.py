"""Every reference case: the weights load from their own format and the outputs agree."""

import functools
from typing import Any

import pytest
import torch

from flagai.model import bert_model, glm_model, gpt2_model, t5_model
from tests.oracle import ROOT, Scenario, scenarios

CLASSES: dict[str, Any] = {
    name: getattr(module, name)
    for module in (glm_model, bert_model, gpt2_model, t5_model)
    for name in dir(module)
    if name.startswith(("GLM", "Bert", "GPT2Model", "T5Model")) and not name.endswith("Config")
} | {
    "BertForMaskedLM": bert_model.BertForMaskLM,
    "BertForSequenceClassification": bert_model.BertForClsClassifier,
    "BertForTokenClassification": bert_model.BertForSequenceLabeling,
    "RobertaModel": bert_model.BertModel,
    "GPT2LMHeadModel": gpt2_model.GPT2Model,
    "T5ForConditionalGeneration": t5_model.T5Model,
    "MT5ForConditionalGeneration": t5_model.T5Model,
}
# The original calls these ``hidden_states``; ours mean the last hidden states everywhere.
TRANSFORMED = ("BertForMaskLM", "BertForSeq2seq")

# The layout of FlagAI's caches (ours is our own), and copies of outputs that ``accept_any_of`` names.
NOT_COMPARED = ("past.", "logits_scaled", "loss_scaled", "step_logits_scaled", "logits_flagai")
# Lists of labels and spans, compared as such below.
OTHERWISE = {("bert_crf", "viterbi"), ("bert_gp", "entities")}


@functools.cache
def load(name: str, model_class: str, overrides: tuple[tuple[str, Any], ...]) -> Any:
    return CLASSES[model_class].from_pretrain(ROOT, name, dtype=torch.float32, **dict(overrides))


@torch.no_grad()
@pytest.mark.parametrize("scenario", scenarios())
def test_equals_the_reference(scenario: Scenario) -> None:
    name = scenario.model_class
    if scenario.meta["kind"] == "fast":
        name = "GLMForMultiTokenClozeFast"
    model = load(scenario.case, name, tuple(scenario.meta["args"].get("init", {}).items()))
    if scenario.meta["kind"] in ("incremental", "hf_incremental"):
        got = STEPPERS[type(model)](model, scenario)
    else:
        got = forward(model, scenario)
    for key in scenario.outputs:
        if not key.startswith(NOT_COMPARED) and (scenario.case, key) not in OTHERWISE:
            scenario.check(key, got[key])


def forward(model: Any, scenario: Scenario) -> dict[str, Any]:
    arguments = dict(scenario.inputs)
    if "dec_input_ids" not in arguments:
        arguments["output_hidden_states"] = True
    output = model(**arguments)
    if scenario.model_class in TRANSFORMED:
        output["hidden_states"] = model.head.features(output["hidden_states"])
    states = output.get("all_hidden_states") or []
    last = output["hidden_states"]
    output |= {
        "last_hidden_state": last,
        "decoder_last_hidden_state": last,
        "pooler_output": output.get("pooled"),
        "encoder_layers.last": last,
    }
    output |= {f"encoder_layers.{i}": state for i, state in enumerate(states[1:])}
    if "nll_per_sample" in scenario.outputs:
        valid = arguments["input_ids"] > 0
        output["nll_per_sample"] = model.crf(output["logits"], arguments["labels"], valid)
    listed = states
    if isinstance(model, gpt2_model.GPT2Model | t5_model.T5Model):
        listed = [*states[:-1], last]
    elif scenario.case in ("bert_cls", "bert_embedding"):
        listed = states[1:]
    longest = model.config.get("max_memory_length") if scenario.meta["name"] == "max_memory" else 0
    output |= {f"hidden_states.{i}": state[:, -longest:] for i, state in enumerate(listed)}
    output |= {f"decoder_hidden_states.{i}": state for i, state in enumerate(listed)}
    if "labels" in arguments and "target_logits" in scenario.outputs:
        output |= {"target_logits": model(**{k: v for k, v in arguments.items() if k != "labels"})["target_logits"]}
    return {key: value for key, value in output.items() if value is not None}


def step_glm(model: Any, scenario: Scenario) -> dict[str, torch.Tensor]:
    given = scenario.inputs
    context = model(
        given["ctx_input_ids"],
        given["ctx_position_ids"],
        given["ctx_attention_mask"],
        return_memory=True,
        output_hidden_states=True,
    )
    memory, states, steps = context["hidden_states"], [context["all_hidden_states"]], []
    length = given["ctx_input_ids"].shape[1]
    for step in range(given["step_input_ids"].shape[1]):
        mask = torch.zeros(1, dtype=torch.long)
        if "step_attention_mask" in given:
            mask = given["step_attention_mask"][:, :, step : step + 1, : length + step + 1]
            if given["step_attention_mask"].shape[2] == 1:
                mask = given["step_attention_mask"][..., : length + step + 1]
        output = model(
            given["step_input_ids"][:, step : step + 1],
            given["step_position_ids"][:, :, step : step + 1]
            if given["step_position_ids"].dim() == 3
            else given["step_position_ids"][:, step : step + 1],
            mask,
            mems=memory,
            return_memory=True,
            output_hidden_states=True,
        )
        memory = output["hidden_states"]
        states.append(output["all_hidden_states"])
        steps.append(output["logits"])
    got = {"ctx_logits": context["logits"], "step_logits": torch.cat(steps, 1)}
    got |= {f"ctx_hidden_states.{i}": state for i, state in enumerate(states[0])}
    got |= {f"final_hidden_states.{i}": torch.cat(parts, 1) for i, parts in enumerate(zip(*states, strict=True))}
    return got


def step_gpt2(model: Any, scenario: Scenario) -> dict[str, torch.Tensor]:
    context = model(scenario.inputs["ctx_input_ids"], use_cache=True)
    steps = [model(ids[:, None], cache=context["cache"])["logits"] for ids in scenario.inputs["step_input_ids"].T]
    return {"ctx_logits": context["logits"], "step_logits": torch.cat(steps, 1)}


def step_t5(model: Any, scenario: Scenario) -> dict[str, torch.Tensor]:
    given, cache, steps = scenario.inputs, model.new_cache(), []
    for ids in given["decoder_input_ids"].T:
        text = {} if cache.length else {key: given[key] for key in ("input_ids", "attention_mask")}
        steps.append(model(**text, decoder_input_ids=ids[:, None], cache=cache)["logits"])
    return {"step_logits": torch.cat(steps, 1)}


STEPPERS = {glm_model.GLMModel: step_glm, gpt2_model.GPT2Model: step_gpt2, t5_model.T5Model: step_t5}


def scenario_of(case: str) -> Scenario:
    return next(parameter.values[0] for parameter in scenarios() if parameter.values[0].case == case)


@torch.no_grad()
def test_the_best_labels_equal_the_reference() -> None:
    scenario, model = scenario_of("bert_crf"), load("bert_crf", "BertForSequenceLabelingCRF", ())
    valid = scenario.inputs["input_ids"] > 0
    got = model.crf.decode(model(**scenario.inputs)["logits"], valid, first=[0])
    assert torch.equal(got, scenario.outputs["viterbi"].long())


@torch.no_grad()
def test_the_entities_equal_the_reference() -> None:
    scenario, model = scenario_of("bert_gp"), load("bert_gp", "BertForSequenceLabelingGP", ())
    scores = model(**scenario.inputs)["logits"]
    inner = torch.full_like(scores, -torch.inf)
    inner[:, :, 1:-1, 1:-1] = scores[:, :, 1:-1, 1:-1]
    assert torch.equal(inner > 0, scenario.outputs["entities"])
