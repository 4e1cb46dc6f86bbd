"""OpenAI's conversations, for models that were trained to chat."""

from collections.abc import AsyncIterator
from typing import Any

from flagai.model.predictor.results import Chatted
from flagai.serve.calls import ClientCall, Endpoint, EventStream, texts_of
from flagai.serve.fields import REQUIRED, Body, BodyField
from flagai.serve.openai_calls import (
    DONE,
    INTEGER,
    MODEL,
    SAMPLING,
    TEXT,
    USAGE,
    check_answers,
    head,
    listed,
    only,
    record,
)
from flagai.serve.refusals import unprocessable
from flagai.serve.work import WorkSpec

CHAT: Body = {
    "model": MODEL,
    "messages": BodyField("messages", "The conversation; the model answers its last message.", REQUIRED),
    "tools": BodyField("tools", "Descriptions of tools that the model may ask for."),
    "tool_choice": only("The model decides.", "auto"),
    "parallel_tool_calls": only("The model decides.", True),
    "max_tokens": BodyField("integer", "Tokens of an answer at most; another name is max_completion_tokens.", None, 1),
    "max_completion_tokens": BodyField("integer", "Tokens of an answer at most.", None, 1),
    "n": BodyField("integer", "Answers.", 1, 1),
    "logprobs": only("Not supported here; /v1/completions has it.", False),
    "top_logprobs": only("Not supported here; /v1/completions has it.", None),
    "response_format": BodyField("any", "Only text.", choices=({"type": "text"}, None)),
    **SAMPLING,
    "temperature": BodyField("number", "0 takes the best token; default as the model's authors.", None, 0, 100),
    "top_p": BodyField("number", "Sample from the fewest tokens with this probability.", None, 0, 1),
    "top_k": BodyField("integer", "Sample from so many of the most probable tokens; 0 for all.", None, 0),
    "repetition_penalty": BodyField("number", "Above 1 repeats less.", None, 0.01, 100),
}
_SAMPLES = ("temperature", "top_p", "top_k", "repetition_penalty")


def _options(call: ClientCall) -> dict[str, Any]:
    """What ``Predictor.chat`` takes for OpenAI's fields.

    Raises:
        RequestError: two fields contradict each other.
    """
    body = call.body
    if body["max_tokens"] and body["max_completion_tokens"]:
        raise unprocessable("max_tokens", "it is another name of max_completion_tokens. Give one of them.")
    most = body["max_completion_tokens"] or body["max_tokens"]
    found: dict[str, Any] = {} if most is None else {"max_new_tokens": most}
    given = {name: body[name] for name in _SAMPLES if body[name] is not None}
    if body["temperature"] == 0:
        given = {"do_sample": False} | {name: given[name] for name in given if name == "repetition_penalty"}
    elif {*given} - {"repetition_penalty"}:
        given = {"temperature": 1.0, "do_sample": True} | given
    if body["tools"]:
        found["tools"] = tuple(body["tools"])
    if body["stop"]:
        found["stop"] = texts_of(body["stop"])
    seeds = {} if body["temperature"] == 0 else {"seeds": call.seeds(body["seed"], 1, body["n"])}
    return found | given | seeds


async def chat(call: ClientCall) -> Any:
    """Answer a conversation."""
    body = call.body
    most = body["max_completion_tokens"] or body["max_tokens"]
    check_answers(call, most, "max_tokens" if body["max_tokens"] else "max_completion_tokens")
    entries = (tuple(body["messages"]),) * body["n"]
    spec = WorkSpec("chat", entries, _options(call), generates=True)
    if body["stream"]:
        own = head(call, "chat.completion.chunk", "chatcmpl")
        return EventStream(_parts(call, await call.ticket(spec, stream=True), own))
    ticket = await call.generate(spec)
    choices = [_choice(index, each.answers()[0]) for index, each in enumerate(ticket.asked)]
    return head(call, "chat.completion", "chatcmpl") | {"choices": choices, "usage": call.count(ticket)}


def _choice(index: int, answer: Chatted) -> dict[str, Any]:
    message = answer.message.to_dict() | {"content": answer.content}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}


async def _parts(call: ClientCall, ticket: Any, own: dict[str, Any]) -> AsyncIterator[Any]:
    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return own | {"choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    begun: set[int] = set()
    async for index, text, answer in call.streamed(ticket, lambda answer: str(answer.content)):
        if index not in begun:
            begun.add(index)
            yield chunk(index, {"role": "assistant", "content": ""})
        if text:
            yield chunk(index, {"content": text})
        if answer is not None:
            calls = [{"index": number} | each.to_dict() for number, each in enumerate(answer.tool_calls)]
            extra = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
            yield chunk(index, ({"tool_calls": calls} if calls else {}) | extra, answer.finish_reason)
    usage = call.count(ticket)
    if (call.body["stream_options"] or {}).get("include_usage"):
        yield own | {"choices": [], "usage": usage}
    yield DONE


_MESSAGE = {"type": "object", "required": ["role", "content"], "properties": {"role": TEXT, "content": TEXT}}
_CHOICE = record(index=INTEGER, message=_MESSAGE, finish_reason={"enum": ["stop", "length", "tool_calls"]})
ENDPOINTS = (
    Endpoint(
        "/v1/chat/completions",
        "Answer a conversation (OpenAI)",
        lambda model: "chat" if model.can_chat else None,
        CHAT,
        chat,
        record(id=TEXT, object=TEXT, created=INTEGER, model=TEXT, choices=listed(_CHOICE), usage=USAGE),
        "chat",
        "messages",
    ),
)
