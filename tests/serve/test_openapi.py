"""The OpenAPI document says what the server takes and answers."""

from typing import Any

import pytest

from flagai.serve.pages import ENDPOINTS, PLAIN
from tests.serve.processes import ServerProcess
from tests.serve.test_refusals import REFUSED

TYPES: dict[str, Any] = {
    "string": str,
    "array": list,
    "object": dict,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
}
GLM = {"model": "GLM-mini-ch"}
MINILM = {"model": "all-MiniLM-L6-v2"}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": ["春", "秋"], "max_tokens": 2, "logprobs": 1, "stop": ["x"]} | GLM),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}),
    ("/v1/embeddings", MINILM | {"input": "a", "encoding_format": "base64"}),
    ("/v1/title", {"text": "第一条", "max_new_tokens": 3}),
    ("/v1/poem", {"text": ["春"], "max_new_tokens": 3, "form": "五言绝句", "temperature": 0.5}),
    ("/v1/fill", GLM | {"text": "春[MASK]", "max_new_tokens": 2}),
    ("/v1/ner", {"text": "北京"}),
    ("/v1/match", MINILM | {"pairs": [["a", "b"]]}),
    ("/v1/classify", {"model": "BERT-classes", "text": ["a", ["a", "b"]]}),
    ("/embed", MINILM | {"inputs": "a", "truncate": False}),
    ("/rerank", MINILM | {"query": "a", "texts": ["b"]}),
    ("/predict", {"inputs": [["a"], ["a", "b"]]}),
    ("/models/all-MiniLM-L6-v2/pipeline/feature-extraction", {"inputs": "a"}),
    (
        "/models/all-MiniLM-L6-v2/pipeline/sentence-similarity",
        {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    ),
    ("/models/RoBERTa-base-ch-ner/pipeline/token-classification", {"inputs": "北京"}),
    ("/models/BERT-classes/pipeline/text-classification", {"inputs": "a", "parameters": {"top_k": 1}}),
    ("/models/BERT-masks/pipeline/fill-mask", {"inputs": "春[MASK]"}),
]
# What a schema cannot say.
BEYOND = (
    *(
        "not a title",
        "no effect",
        "one text",
        "this server",
        "here",
        "cannot",
        "several",
        "do not",
        "no blank",
        "known",
    ),
    *("name at least", "classes", "all the same", "tokens", "not fit", "reads", "does not know", "a call"),
)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is as a schema says; the words of JSON Schema that the document uses, and no others."""
    known = {"type", "properties", "required", "items", "anyOf", "enum", "minimum", "maximum", "additionalProperties"}
    assert schema.keys() <= known | {"default", "description", "minItems", "maxItems"}, schema
    if "anyOf" in schema and not any(fits(value, each) for each in schema["anyOf"]):
        return False
    if "enum" in schema and not any(value == each and type(value) is type(each) for each in schema["enum"]):
        return False
    names = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    if names and not any(isinstance(value, TYPES[n]) and (n == "boolean" or value is not True) for n in names):
        return False
    if isinstance(value, list):
        inside = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return inside and all(fits(each, schema.get("items", {})) for each in value)
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        extra = {} if others is True else others
        if others is False and value.keys() - properties.keys():
            return False
        return value.keys() >= set(schema.get("required", [])) and all(
            fits(each, properties.get(name, extra)) for name, each in value.items()
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not number or schema.get("minimum", value) <= value <= schema.get("maximum", value)


@pytest.fixture(scope="module")
def document(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/openapi.json").json()
    return found


def operation(document: dict[str, Any], path: str) -> dict[str, Any]:
    model = path.split("/")[2] if path.startswith("/models/") else "{model}"
    found: dict[str, Any] = document["paths"][path.replace(f"/{model}/", "/{model}/")]["post"]
    return found


def schema_of(part: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = part["content"]["application/json"]["schema"]
    return found


@pytest.mark.parametrize(("path", "body"), ASKED, ids=[path for path, _ in ASKED])
def test_bodies_and_answers_are_as_the_document_says(
    server: ServerProcess, document: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    described = operation(document, path)
    assert fits(body, schema_of(described["requestBody"]))
    assert not fits(body | {"nothing": 1}, schema_of(described["requestBody"]))
    assert fits(server.answer(path, **body), schema_of(described["responses"]["200"]))


def test_every_path_is_described_and_asked(document: dict[str, Any]) -> None:
    paths = {endpoint.path for endpoint in ENDPOINTS}
    assert document["paths"].keys() == paths | PLAIN.keys()
    asked = {path if "/models/" not in path else "/models/{model}/" + path.split("/", 3)[3] for path, _ in ASKED}
    assert asked == paths
    assert len({each["operationId"] for path in document["paths"].values() for each in path.values()}) == len(
        document["paths"]
    )


def test_what_the_document_forbids_is_refused(server: ServerProcess, document: dict[str, Any]) -> None:
    checked = 0
    for path, body, _, _, words in REFUSED:
        if not any(each in words for each in BEYOND):
            assert not fits(body, schema_of(operation(document, path)["requestBody"])), (path, body)
            checked += 1
    assert checked > 10
    problem = document["components"]["schemas"]["Error"]
    assert fits(server.post("/v1/poem", text=3).json(), problem)


def test_plain_paths_answer_as_described(server: ServerProcess, document: dict[str, Any]) -> None:
    for path in PLAIN:
        answer = server.client.get(path)
        assert answer.status_code == 200
        content = document["paths"][path]["get"]["responses"]["200"].get("content")
        assert content is None or fits(answer.json(), content["application/json"]["schema"])
