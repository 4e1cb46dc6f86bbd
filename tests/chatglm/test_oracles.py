"""The later GLMs compute what their original code computed."""

import pytest
import torch

from flagai.generation import Decoding, Prompt, generate
from flagai.model.layer import Rotary
from tests.chatglm.cases import FIRST, LATER, PAD, answers, case, decoding, error, model, prompts

TOLERANCE = 1e-4


@pytest.mark.parametrize("name", [*FIRST, *LATER])
@torch.inference_mode()
def test_left_padded_batches_and_steps(name: str) -> None:
    tensors, network = case(name), model(name)
    ids, mask, positions = (tensors[f"batch.{key}"] for key in ("input_ids", "attention_mask", "position_ids"))
    first = name in FIRST
    real = ids != PAD if first else mask
    given = network(ids, positions, ~mask if first else mask)["logits"]
    assert error(given, tensors["batch.logits"], real) < TOLERANCE
    cache = network.new_cache()
    found = network(ids, attention_mask=None if first else mask, cache=cache)["logits"]
    assert error(found, tensors["batch.logits"], real) < TOLERANCE
    if "steps.tokens" in tensors:
        steps = [network(column[:, None], cache=cache)["logits"] for column in tensors["steps.tokens"].T]
        assert error(torch.cat(steps, 1), tensors["steps.logits"]) < TOLERANCE


@pytest.mark.parametrize("name", ["chatglm6b", *LATER])
@torch.inference_mode()
def test_a_text_and_its_hidden_states(name: str) -> None:
    tensors, network = case(name), model(name)
    output = network(tensors["single.input_ids"], output_hidden_states=True)
    assert error(output["logits"], tensors["single.logits"]) < TOLERANCE
    layers = len(network.blocks)
    for layer in range(layers):  # the last one is behind the last norm in some of the originals
        assert error(output["all_hidden_states"][layer], tensors[f"single.hidden.{layer}"]) < TOLERANCE


CALLS = [(name, call) for name in (*FIRST, *LATER) for call in ("greedy", "beam") if f"{call}.output_ids" in case(name)]


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_generation_in_one_batch(name: str, call: str) -> None:
    tensors, network = case(name), model(name)
    how, wanted = decoding(name, tensors, call), answers(name, tensors, call)
    texts = prompts(name, call, tensors)
    found = [each[0].ids for each in generate(network, texts, how)]
    # transformers goes on with a beam whose ended one is better already: the shorter answer is the same up to its end.
    sooner = {("native-glm", "beam", 1)}
    for row, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        ended = mine[:-1] if mine and mine[-1] in how.stop_token_ids else mine
        assert ended == (theirs[: len(ended)] if (name, call, row) in sooner else theirs)
    assert [generate(network, [text], how)[0][0].ids for text in texts] == found  # alone as in a batch


@pytest.mark.parametrize("name", ["chatglm3-6b", "glm-4-9b"])
@torch.inference_mode()
def test_a_second_turn_on_a_cache(name: str) -> None:
    tensors, network = case(name), model(name)
    cache = network(tensors["turn.first"], use_cache=True)["cache"]
    assert error(network(tensors["turn.second"], cache=cache)["logits"], tensors["turn.logits"]) < TOLERANCE


def test_the_loss() -> None:
    tensors = case("chatglm6b")
    loss = model("chatglm6b")(tensors["loss.input_ids"], labels=tensors["loss.labels"])["loss"]
    assert error(loss, tensors["loss.value"][0]) < TOLERANCE


@pytest.mark.parametrize("call", ["gmask", "mask"])
@torch.inference_mode()
def test_glm_130b(call: str) -> None:
    tensors, network = case("glm-130b"), model("glm-130b")
    ids, positions, hidden = (tensors[f"{call}.{key}"] for key in ("input_ids", "position_ids", "attention_mask"))
    assert error(network(ids, positions, ~hidden)["logits"], tensors[f"{call}.logits"]) < TOLERANCE
    cache = network.new_cache()
    network(ids[:, :-2], positions[:, :-2], ~hidden[..., :-2, :-2], cache=cache)
    steps = network(ids[:, -2:], positions[:, -2:], ~hidden[..., -2:, :], cache=cache)["logits"]
    assert error(steps, tensors[f"{call}.cached_logits"]) < TOLERANCE


def test_rotary_frequencies_are_rounded_as_in_training() -> None:
    tensors = case("chatglm6b-rope-tables")
    angles = Rotary(64, rounded=True)(tensors["positions"][None])
    assert error(angles.cos[0, 0, :, 0], tensors["cos.float32"]) < 1e-5
    assert error(angles.sin[0, 0, :, 0], tensors["sin.float32"]) < 1e-5
    exact = Rotary(64)(tensors["positions"][None]).cos[0, 0, :, 0]
    assert error(exact, tensors["cos.float32"]) > 0.1


def test_positions_of_one_dimension_run_on_behind_gmask() -> None:
    """Steps of the engine stand where the whole text's tokens stand."""
    network, config = model("glm-130b"), model("glm-130b").config
    config = config.replace(gmask_token_id=151, mask_token_id=150, bos_token_id=154)
    network.config, before = config, network.config
    try:
        prompt = (9, 8, 7, 151)
        answer = generate(
            network, [Prompt(prompt, (3,))], Decoding(max_new_tokens=4, start_id=154, stop_token_ids=(1,))
        )
        ids = list(answer[0][0].ids)
        logits = network(torch.tensor([[*prompt, 154, *ids[:-1]]]))["logits"][0, 4:]
        assert logits.argmax(-1).tolist() == ids
    finally:
        network.config = before
