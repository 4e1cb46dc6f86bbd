"""The OpenAPI document of a server, from the tables that check its requests."""

from collections.abc import Iterable, Mapping
from typing import Any

from flagai import __version__
from flagai.serve.calls import Endpoint
from flagai.serve.fields import Schema, body_schema

_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                "code": {"type": "integer", "description": "The HTTP status."},
            },
        }
    },
}
_STATUSES: Mapping[str, str] = {
    "400": "The body is not JSON in UTF-8.",
    "401": "The key is missing or wrong.",
    "404": "There is no such model.",
    "408": "The request took too long to arrive.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "422": "A field is wrong; `param` names it.",
    "429": "Too much is waiting; come again after Retry-After.",
    "503": "The server stops, has failed, or the answer took too long.",
}
_JSON = "application/json"


def document(endpoints: Iterable[Endpoint], plain: Mapping[str, tuple[str, Schema]]) -> dict[str, Any]:
    """The document.

    Args:
        endpoints: the routes that a model answers.
        plain: the routes without a body: path -> what they answer, in words and as a schema.
    """
    paths: dict[str, Any] = {}
    for each in endpoints:
        answers: dict[str, Any] = {"200": {"description": each.summary, "content": {_JSON: {"schema": each.answer}}}}
        if "stream" in each.body:
            events = {"schema": {"type": "string", "description": "Server-sent events, each a JSON object."}}
            answers["200"]["content"]["text/event-stream"] = events
        paths[each.path] = {
            "post": {
                "summary": each.summary,
                "operationId": each.path.strip("/").replace("/", "_"),
                "requestBody": {"required": True, "content": {_JSON: {"schema": body_schema(each.body)}}},
                "responses": answers | _problems(),
            }
        }
    for path, (summary, schema) in plain.items():
        content = {"content": {_JSON: {"schema": schema}}} if schema else {}
        paths[path] = {
            "get": {
                "summary": summary,
                "operationId": path.strip("/").replace("/", "_") or "page",
                "responses": {"200": {"description": summary} | content},
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "flagai", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _problems() -> dict[str, Any]:
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": words, "content": content} for status, words in _STATUSES.items()}
