"""The reference's recorded answers, under the reading that docs/differences-from-flagai.md gives them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from flagai.generation import Decoding, Prompt, generate, processors, sampling
from tests.generation.toys import toy
from tests.generation.writers import lively

GOLDEN = Path(__file__).parent.parent / "golden"
PAD, CLS, SEP, UNK, EOP, MASK, SOP = range(7)
# family: (before the prompt, after it, stop id in the golden files)
# In how many of 48 cases each our answer has a higher score than the recorded one.
BETTER = {"bert": 17, "gpt": 17, "t5": 18, "glm": 21}
FORMATS = {"bert": (CLS, [SEP], SEP), "gpt": (CLS, [], SEP), "t5": (CLS, [SEP], PAD), "glm": (SOP, [SEP], EOP)}


def rows(name: str) -> list[dict[str, Any]]:
    return json.loads((GOLDEN / f"{name}.json").read_text())["rows"]


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


def prompt(row: dict[str, Any]) -> Prompt:
    before, after, _ = FORMATS[row["family"]]
    return Prompt((before, *numbers(row["prompt"]), *after))


def base(row: dict[str, Any]) -> dict[str, Any]:
    """Options of a family: T5's decoder starts with [CLS] here; GLM never writes command tokens but <eop>."""
    family = row["family"]
    start = CLS if family == "t5" else None
    banned = tuple(set(range(7)) - {EOP}) if family == "glm" else ()
    return {"stop_token_ids": (FORMATS[family][2],), "start_id": start, "suppress_tokens": banned}


def reference(row: dict[str, Any]) -> Any:
    """The toy as the reference's beam search calls it: GLM's new tokens get block position 1 there."""
    return toy(row["family"], row["seed"], answer_block=int(row["family"] == "glm"))


def score_of(row: dict[str, Any], answer: tuple[int, ...], finished: bool) -> float:
    """The log-probability of a whole answer, found by allowing no other token."""
    options = base(row)
    wanted = iter((*answer, *(options["stop_token_ids"] if finished else ())))
    total = []

    def follow(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = next(wanted)
        total.append(float(scores[0, 0, token]))
        return torch.full_like(scores, -torch.inf).index_fill(-1, torch.tensor([token]), 0)

    decoding = Decoding(**options, max_new_tokens=len(answer) + finished)
    generate(reference(row), [prompt(row)], decoding, logits_processors=[follow])
    return sum(total)


def test_beams() -> None:
    """Ours is the recorded answer, or one with a higher score: the reference throws finished answers away.

    A recorded answer that is shorter than the limit was finished.
    """
    outcome: Counter[tuple[str, str]] = Counter()
    for row in rows("decode_beam"):
        wanted = numbers(row.get("result_context_reordered", row["result"]))
        decoding = Decoding(**base(row), max_new_tokens=row["out_max_length"], num_beams=row["beam_size"])
        got = generate(reference(row), [prompt(row)], decoding)[0][0]
        if got.ids == wanted:
            outcome[row["family"], "same"] += 1
            assert got.score == pytest.approx(score_of(row, wanted, got.finished), abs=1e-4)
        else:
            outcome[row["family"], "better"] += 1
            assert row["beam_size"] > 1
            assert got.score > score_of(row, wanted, len(wanted) < row["out_max_length"]) + 1e-4, row
    assert {family: outcome[family, "better"] for family in FORMATS} == BETTER
    assert outcome.total() == 192


ORDERS = {"glm": ("temperature", "top_p", "repetition_penalty", "top_k")}


@pytest.mark.parametrize("family", FORMATS)
def test_sampling(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step, the distribution that is drawn from is the recorded one."""
    for row in rows("decode_sampling"):
        if row["family"] != family:
            continue
        drawn: list[torch.Tensor] = []

        def best(scores: torch.Tensor, uniforms: torch.Tensor, drawn: list[torch.Tensor] = drawn) -> torch.Tensor:
            drawn.append(scores.softmax(-1)[0, 0])
            return scores.argmax(-1)

        monkeypatch.setattr(sampling, "sample", best)
        options = base(row)
        if family == "glm":
            options["processors"] = ORDERS["glm"]
        else:
            options["suppress_tokens"] = (UNK,)
        if family == "bert":
            options["stop_token_ids"] = (PAD,)  # as the reference's BERT does here
        # The reference's GPT-2 does not stop at its first token, and neither must we for the comparison.
        if family == "gpt" and row["result_when_argmax_is_drawn"].startswith("2"):
            options["stop_token_ids"] = ()
        decoding = Decoding(**options, do_sample=True, max_new_tokens=row["out_max_length"], **row["args"])
        answer = generate(toy(family, row["seed"]), [prompt(row)], decoding)[0][0].ids
        recorded = torch.tensor(row["probs"])
        torch.testing.assert_close(torch.stack(drawn)[: len(recorded)], recorded, atol=2e-6, rtol=0)
        wanted = numbers(row["result_when_argmax_is_drawn"])
        assert answer[: len(wanted)] == wanted
        assert len(drawn) == len(recorded) or not options["stop_token_ids"]


def test_processors() -> None:
    found = rows("decode_processors")
    assert len(found) == 36
    for row in found:
        name, value = row["processor"].split("=")
        function, _ = processors.SAMPLING_ORDER[name]
        got = function(
            torch.tensor(row["previous_ids"])[None, None],
            torch.tensor(row["logits"])[None, None],
            int(value) if name == "top_k" else float(value),
        )
        wanted = [float("-inf") if score is None else score for score in row["out"]]
        torch.testing.assert_close(got[0, 0], torch.tensor(wanted), atol=1e-6, rtol=1e-6)


def test_blank_filling() -> None:
    """Every call has the recorded tokens at the recorded positions; a scripted model gives the recorded pieces."""
    for row in rows("glm_blank_filling"):
        model = lively("GLMModel", spell_length=None, vocab_size=50048, max_sequence_length=64)
        script = iter(row["script_ids"])
        calls: list[dict[str, Any]] = []
        context = row["calls"][0]["input_ids"][0]
        masks = tuple(place for place, token in enumerate(context) if token in (50003, 50008, 50009))
        forward = model.forward

        def recorded(input_ids: Any, forward: Any = forward, calls: Any = calls, **given: Any) -> Any:
            calls.append({"input_ids": input_ids.tolist(), "position_ids": given["position_ids"].tolist()})
            return forward(input_ids, **given)

        def scripted(ids: torch.Tensor, scores: torch.Tensor, script: Any = script) -> torch.Tensor:
            return torch.full_like(scores, -torch.inf).index_fill(-1, torch.tensor([next(script)]), 0)

        model.forward = recorded
        decoding = Decoding(max_new_tokens=row["out_max_length"], stop_token_ids=(50007, 50000), start_id=50006)
        answer = generate(model, [Prompt(context, masks)], decoding, logits_processors=[scripted])[0][0]
        wanted = [{key: call[key] for key in ("input_ids", "position_ids")} for call in row["calls"]]
        # The reference feeds the last token of a full piece to no end.
        assert calls == wanted[: len(calls)]
        assert len(calls) >= len(wanted) - 1
        assert len(answer.pieces) == len(masks)
        joined = [token for token in row["script_ids"] if token != 50007][: len(answer.ids)]
        assert list(answer.ids) == joined
