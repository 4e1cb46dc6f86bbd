"""The official clients of OpenAI's and Hugging Face's services against a real server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import torch
from huggingface_hub import InferenceClient

import flagai
from flagai import SentenceEmbedder
from flagai.catalog.packages import find_model
from tests.serve.processes import ServerProcess

TEXTS = ["A man is playing a guitar.", "The sky is blue."]
USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def hub(server: ServerProcess) -> InferenceClient:
    return InferenceClient(token="none")


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return SentenceEmbedder.from_folder(find_model("all-MiniLM-L6-v2")).embed(TEXTS, normalize=True)


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert "GLM-mini-ch" in [model.id for model in client.models.list()]


def test_openai_completes(client: openai.OpenAI) -> None:
    wanted = flagai.load("lm", "GLM-mini-ch")("春眠不觉晓，", do_sample=True, seed=4, max_new_tokens=12)
    options = {"model": "GLM-mini-ch", "prompt": "春眠不觉晓，", "max_tokens": 12, "seed": 4}
    found = client.completions.create(**options)
    assert found.choices[0].text == wanted
    assert found.usage.completion_tokens > 0
    chunks = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == wanted
    assert chunks[-1].usage == found.usage
    several = client.completions.create(**options | {"n": 3, "prompt": ["春", "秋"]}, logprobs=2, stop=["，"])
    assert len(several.choices) == 6
    noted = several.choices[5].logprobs
    for number, best in zip(noted.token_logprobs, noted.top_logprobs, strict=True):
        assert len(best) in (2, 3)  # the chosen token is told, too
        assert number in best.values()


def test_openai_streams_log_probabilities(client: openai.OpenAI) -> None:
    """Joined, those of the chunks are those of the whole answer; each stands beside its token's text."""
    options = {"model": "GLM-mini-ch", "prompt": "春眠不觉晓，", "max_tokens": 12, "seed": 4, "n": 2, "logprobs": 2}
    whole = client.completions.create(**options)
    chunks = [chunk.choices[0] for chunk in client.completions.create(**options, stream=True)]
    for choice in whole.choices:
        own = [chunk for chunk in chunks if chunk.index == choice.index]
        assert len(own) > 2
        for chunk in own[:-1]:
            assert "".join(chunk.logprobs.tokens) == chunk.text
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [each for chunk in own for each in getattr(chunk.logprobs, name)]
            for found, wanted in zip(joined, getattr(choice.logprobs, name), strict=True):
                assert found == (wanted if isinstance(wanted, str) else pytest.approx(wanted, abs=1e-5)), name


def test_openai_embeds(client: openai.OpenAI, vectors: torch.Tensor) -> None:
    for encoding in ({}, {"encoding_format": "float"}):  # the client asks for base64 by itself
        found = client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS, **encoding)
        own = torch.tensor([each.embedding for each in found.data])
        torch.testing.assert_close(own, vectors, atol=1e-5, rtol=0)


def test_openai_chats(client: openai.OpenAI, home: Path) -> None:
    predictor = flagai.load("lm", str(home / "tiny-chat")).predictor
    wanted = predictor.chat(USER, max_new_tokens=12, do_sample=False)
    options = {"model": "tiny-chat", "messages": USER, "max_tokens": 12}
    found = client.chat.completions.create(**options, temperature=0)
    assert found.choices[0].message.content == wanted.content
    assert found.choices[0].finish_reason == wanted.finish_reason
    assert found.usage.prompt_tokens == wanted.num_prompt_tokens
    chunks = list(client.chat.completions.create(**options, temperature=0, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted.content
    drawn = predictor.chat(USER, max_new_tokens=12, do_sample=True, temperature=0.9, seed=6)
    found = client.chat.completions.create(**options, temperature=0.9, seed=5, n=2)
    assert found.choices[1].message.content == drawn.content


def test_openai_gets_errors_of_its_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="prompt") as caught:
        client.completions.create(model="GLM-mini-ch", prompt=[])
    assert caught.value.param == "prompt"
    with pytest.raises(openai.NotFoundError, match="no 'gpt-4' here"):
        client.completions.create(model="gpt-4", prompt="a")
    with pytest.raises(openai.UnprocessableEntityError, match="cannot chat"):
        client.chat.completions.create(model="GLM-mini-ch", messages=USER)


def test_openai_streams_asynchronously(server: ServerProcess) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none") as client:
            stream = await client.completions.create(
                model="GLM-mini-ch", prompt="春", max_tokens=8, temperature=0, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(ask()) == flagai.load("lm", "GLM-mini-ch")("春", max_new_tokens=8)


def test_the_hubs_client_embeds(server: ServerProcess, hub: InferenceClient, vectors: torch.Tensor) -> None:
    address = f"{server.address}/models/all-MiniLM-L6-v2/pipeline"
    for text, wanted in zip(TEXTS, vectors, strict=True):
        found = hub.feature_extraction(text, model=f"{address}/feature-extraction", normalize=True)
        np.testing.assert_allclose(found[0], wanted.numpy(), atol=1e-5)
    found = hub.sentence_similarity(TEXTS[0], other_sentences=TEXTS, model=f"{address}/sentence-similarity")
    np.testing.assert_allclose(found, (vectors @ vectors[0]).numpy(), atol=1e-5)


def test_the_hubs_client_reads(server: ServerProcess, hub: InferenceClient, home: Path) -> None:
    def address(model: str, task: str) -> str:
        return f"{server.address}/models/{model}/pipeline/{task}"

    text = "今天北京天气很好"
    wanted = flagai.load("ner", str(home / "RoBERTa-base-ch-ner"))(text)
    found = hub.token_classification(text, model=address("RoBERTa-base-ch-ner", "token-classification"))
    assert [(each.start, each.end - 1, each.entity_group) for each in found] == [tuple(each) for each in wanted]
    assert all(each.word == text[each.start : each.end] for each in found)
    assert [each.score for each in found] == pytest.approx([each.score for each in wanted], abs=1e-5)
    classes = hub.text_classification(text, model=address("BERT-classes", "text-classification"), top_k=1)
    own = flagai.load("classification", str(home / "BERT-classes"))(text)
    assert (classes[0].label, len(classes)) == (own.label, 1)
    assert classes[0].score == pytest.approx(own.score, abs=1e-5)
    masked = hub.fill_mask("今天[MASK]气", model=address("BERT-masks", "fill-mask"), top_k=3)
    filled = flagai.load("masklm", str(home / "BERT-masks"))("今天[MASK]气", num_return_sequences=3)
    assert [each.sequence for each in masked] == [each.text for each in filled]
    assert masked[0].score == pytest.approx(float(np.exp(filled[0].score)), abs=1e-5)


def test_the_hubs_client_chats(server: ServerProcess, home: Path) -> None:
    wanted = flagai.load("lm", str(home / "tiny-chat")).predictor.chat(USER, max_new_tokens=9, do_sample=False)
    client = InferenceClient(base_url=server.address, api_key="none")
    found = client.chat_completion(USER, model="tiny-chat", max_tokens=9, temperature=0)
    assert found.choices[0].message.content == wanted.content
    parts = client.chat_completion(USER, model="tiny-chat", max_tokens=9, temperature=0, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == wanted.content


def test_teis_calls_answer_as_tei_does(server: ServerProcess, vectors: torch.Tensor) -> None:
    minilm = {"model": "all-MiniLM-L6-v2"}
    torch.testing.assert_close(
        torch.tensor(server.answer("/embed", **minilm, inputs=TEXTS)), vectors, atol=1e-5, rtol=0
    )
    ranked = server.answer("/rerank", **minilm, query=TEXTS[1], texts=TEXTS, return_text=True)
    assert [each["index"] for each in ranked] == [1, 0]
    assert ranked[0]["text"] == TEXTS[1]
    assert ranked[0]["score"] == pytest.approx(1, abs=1e-5)
    single = server.answer("/predict", inputs="今天")
    assert sum(each["score"] for each in single) == pytest.approx(1, abs=1e-5)
    several = server.answer("/predict", inputs=[["今天"], ["今天", "明天"]])
    assert [each["score"] for each in several[0]] == pytest.approx([each["score"] for each in single], abs=1e-5)
    assert server.client.get("/info").json()["model_id"] == "all-MiniLM-L6-v2"
