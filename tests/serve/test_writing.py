"""Titles, poems, blanks and continuations over HTTP are those of the Python API."""

import pytest

import flagai
from tests.serve.processes import ServerProcess

LAW = "第一条 为了规范事业单位登记管理，制定本条例。"
GLM = {"model": "GLM-mini-ch"}


def test_the_server_is_well(server: ServerProcess) -> None:
    assert server.client.get("/health").json() == {"status": "ok", "failed": []}
    models = {each["id"]: each for each in server.client.get("/v1/models").json()["data"]}
    assert "/v1/poem" in models["GLM-mini-ch"]["paths"]
    assert models["RoBERTa-base-ch-ner"]["tasks"] == ["ner"]


def test_titles_are_those_of_the_pipeline(server: ServerProcess) -> None:
    pipeline = flagai.load("title-generation", "GLM-mini-ch")
    wanted = pipeline([LAW, "第一条 为了加强水土保持，制定本法。"], num_return_sequences=2)
    found = server.answer("/v1/title", text=[LAW, "第一条 为了加强水土保持，制定本法。"], num_return_sequences=2)
    for answers, own in zip(found["results"], wanted, strict=True):
        assert [each["text"] for each in answers["answers"]] == [each.text for each in own]
        assert [each["score"] for each in answers["answers"]] == pytest.approx([each.score for each in own], abs=1e-4)


def test_poems_are_those_of_the_pipeline(server: ServerProcess) -> None:
    poet = flagai.load("poetry")
    found = server.answer("/v1/poem", text=["春江花月夜", "秋思"], form="五言绝句", seed=3)
    wanted = poet(["春江花月夜：五言绝句", "秋思：五言绝句"], seed=3)
    assert [each["answers"][0]["text"] for each in found["results"]] == wanted
    (free,) = server.answer("/v1/poem", text="登高", seed=1, strict=False)["results"]
    assert free["answers"][0]["text"] == poet("登高", seed=1, strict=False) != poet("登高", seed=1)
    events = server.events("/v1/poem", text="春江花月夜", seed=1)
    assert len(events) > 8
    assert "".join(event["text"] for event in events) == poet("春江花月夜", seed=1) == events[-1]["answer"]["text"]


def test_blanks_are_those_of_the_pipeline(server: ServerProcess) -> None:
    text = "春眠不觉晓，[sMASK]。"
    found = server.answer("/v1/fill", **GLM, text=text, num_return_sequences=2, max_new_tokens=12)
    wanted = flagai.load("masklm", "GLM-mini-ch")(text, num_return_sequences=2, out_max_length=12)
    assert [each["text"] for each in found["results"][0]["fillings"]] == [each.text for each in wanted]
    masked = server.answer("/v1/fill", model="BERT-masks", text=["今天[MASK]气", "明[MASK]"], num_return_sequences=3)
    assert [len(each["fillings"]) for each in masked["results"]] == [3, 3]


def test_completions_are_those_of_the_predictor(server: ServerProcess) -> None:
    predictor = flagai.load("lm", "GLM-mini-ch").predictor
    prompts = ["春眠不觉晓，", "床前明月光，"]
    found = server.answer("/v1/completions", **GLM, prompt=prompts, max_tokens=12, temperature=0)
    assert [each["text"] for each in found["choices"]] == [
        answers[0].written for answers in predictor.write(prompts, out_max_length=12, num_return_sequences=1)
    ]
    sampled = server.answer("/v1/completions", **GLM, prompt=prompts[0], max_tokens=12, seed=5, n=2, top_k=9, stop="，")
    alone = [
        predictor.write(
            prompts[0], out_max_length=12, do_sample=True, top_k=9, seed=seed, stop="，", num_return_sequences=1
        )
        for seed in (5, 6)
    ]
    assert [each["text"] for each in sampled["choices"]] == [answers[0].written for answers in alone]
    assert sampled["usage"]["total_tokens"] == sum(
        sampled["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    )


def test_log_probabilities_are_of_the_tokens_and_change_nothing(server: ServerProcess) -> None:
    asked = GLM | {"prompt": "春眠不觉晓，", "max_tokens": 8, "temperature": 0}
    plain = server.answer("/v1/completions", **asked)["choices"][0]["text"]
    choice = server.answer("/v1/completions", **asked, logprobs=3)["choices"][0]
    noted = choice["logprobs"]
    assert choice["text"] == plain == "".join(noted["tokens"])
    predictor = flagai.load("lm", "GLM-mini-ch").predictor
    score = predictor.write(asked["prompt"], out_max_length=8, num_return_sequences=1)[0].score
    assert sum(noted["token_logprobs"]) == pytest.approx(score, abs=1e-3)
    for value, best in zip(noted["token_logprobs"], noted["top_logprobs"], strict=True):
        assert value == max(best.values())
        assert len(best) == 3
    assert noted["text_offset"] == list(range(8))
