"""OpenAI's calls: completions and embeddings."""

import base64
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from flagai.model.predictor.results import Written
from flagai.model.predictor.text_generation import TextRequest
from flagai.serve.calls import ClientCall, Endpoint, EventStream, texts_of
from flagai.serve.fields import REQUIRED, Body, BodyField, Schema
from flagai.serve.log_probabilities import TokenReport
from flagai.serve.refusals import unprocessable
from flagai.serve.work import WorkSpec

DONE = "[DONE]"
MODEL = BodyField("text", "The model's name, one of /v1/models; not needed where only one can do this.")
USER = BodyField("text", "Of the client's own use; it changes nothing.")


def only(doc: str, *choices: Any) -> BodyField:
    """A field of OpenAI's that may have few values, the first by default."""
    return BodyField("any", doc, default=choices[0], choices=(*choices, None))


SAMPLING: Body = {
    "temperature": BodyField("number", "0 takes the most probable token; above, tokens are sampled.", 1.0, 0, 100),
    "top_p": BodyField("number", "Sample from the fewest tokens that together have this probability.", 1.0, 0, 1),
    "top_k": BodyField("integer", "Sample from so many of the most probable tokens; 0 for all.", 0, 0),
    "repetition_penalty": BodyField("number", "Above 1 makes tokens that have occurred less probable.", 1.0, 0.01, 100),
    "seed": BodyField("integer", "Of sampling; the n-th choice has the seed plus n.", None, 0, 2**53),
    "stop": BodyField("text or texts", "Texts that end an answer and are not part of it."),
    "stream": BodyField("flag", "Send the answer in parts, as server-sent events.", default=False),
    "stream_options": BodyField("stream options", "Whether a stream ends with the number of tokens."),
    "presence_penalty": only("Not supported; repetition_penalty is.", 0),
    "frequency_penalty": only("Not supported; repetition_penalty is.", 0),
    "logit_bias": only("Not supported.", None),
    "user": USER,
}
COMPLETION: Body = {
    "model": MODEL,
    "prompt": BodyField("text or texts", "The text to continue; a GLM fills its blanks ([MASK]).", REQUIRED),
    "max_tokens": BodyField("integer", "Tokens of an answer at most.", 16, 1),
    "min_tokens": BodyField("integer", "Tokens of an answer at least.", 0, 0),
    "n": BodyField("integer", "Answers to each prompt.", 1, 1),
    "logprobs": BodyField("integer", "Tell log-probabilities, with so many candidates for each token.", None, 0, 20),
    "echo": only("Not supported.", False),
    "suffix": only("Not supported: put [MASK] into the prompt.", None),
    "best_of": only("Not supported.", 1),
    **SAMPLING,
}
EMBEDDING: Body = {
    "model": MODEL,
    "input": BodyField("text or texts", "The texts.", REQUIRED),
    "encoding_format": BodyField("text", "Numbers, or float32 in base64.", "float", choices=("float", "base64")),
    "dimensions": only("Not supported: vectors have all dimensions.", None),
    "user": USER,
}


def writing_options(body: Any, seeds: list[int]) -> dict[str, Any]:
    """What the pipeline of plain continuations takes for OpenAI's fields.

    Args:
        body: the fields.
        seeds: one for each answer.
    """
    found: dict[str, Any] = {
        "max_new_tokens": body["max_tokens"],
        "min_new_tokens": body["min_tokens"],
        "repetition_penalty": body["repetition_penalty"],
        "input_max_length": None,
        "truncation": False,
        "do_sample": body["temperature"] > 0,
    }
    if body["stop"]:
        found["stop"] = texts_of(body["stop"])
    if found["do_sample"]:
        found |= {"temperature": body["temperature"], "top_p": body["top_p"], "top_k": body["top_k"], "seeds": seeds}
    return found


def check_answers(call: ClientCall, most: int | None, name: str) -> None:
    """Refuse what is above the limits of answers, or has no meaning there.

    Args:
        call: the call.
        most: tokens of an answer, as asked for.
        name: the field that says so.

    Raises:
        RequestError: a field has such a value.
    """
    body, bounds = call.body, call.bounds
    if (most or 0) > bounds.new_tokens:
        raise unprocessable(name, f"{most} is more than this server allows ({bounds.new_tokens}).")
    if body["n"] > bounds.answers:
        raise unprocessable("n", f"{body['n']} is more than this server allows ({bounds.answers}).")
    if body["n"] > 1 and body["temperature"] == 0:
        raise unprocessable("n", "several answers are all the same with temperature 0. Raise it.")
    if body["stream_options"] and not body["stream"]:
        raise unprocessable("stream_options", "it needs stream=true.")


async def completions(call: ClientCall) -> Any:
    """Continue prompts."""
    body = call.body
    check_answers(call, body["max_tokens"], "max_tokens")
    prompts, task = texts_of(body["prompt"]), str(call.model.writing_task)
    entries = tuple(prompt for prompt in prompts for _ in range(body["n"]))
    options = writing_options(body, call.seeds(body["seed"], len(prompts), body["n"]))
    spec = WorkSpec(task, entries, options, generates=True, candidates=body["logprobs"])
    own = head(call, "text_completion", "cmpl")
    if body["stream"]:
        return EventStream(_parts(call, await call.ticket(spec, stream=True), own))
    ticket = await call.generate(spec)
    choices = [_choice(call, index, each) for index, each in enumerate(ticket.asked)]
    return own | {"choices": choices, "usage": call.count(ticket)}


def head(call: ClientCall, kind: str, prefix: str) -> dict[str, Any]:
    """What each object of an answer begins with."""
    name = call.model.name
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def finish_reason(answer: Written) -> str:
    """Why an answer ended."""
    return "stop" if answer.finished else "length"


def _choice(call: ClientCall, index: int, asked: TextRequest) -> dict[str, Any]:
    answer = asked.answers()[0]
    noted = None if call.body["logprobs"] is None else TokenReport(asked.request, call.model.tokenizer).rest()
    return {"index": index, "text": answer.written, "logprobs": noted, "finish_reason": finish_reason(answer)}


async def _parts(call: ClientCall, ticket: Any, own: dict[str, Any]) -> AsyncIterator[Any]:
    shown = [0] * len(ticket.asked)
    asks = call.body["logprobs"] is not None
    reports = [TokenReport(each.request, call.model.tokenizer) for each in ticket.asked if asks]
    async for index, text, answer in call.streamed(ticket, lambda answer: str(answer.written)):
        shown[index] += len(text)
        noted = reports[index].rest(shown[index] if answer is None else None) if asks else None
        reason = None if answer is None else finish_reason(answer)
        yield own | {"choices": [{"index": index, "text": text, "logprobs": noted, "finish_reason": reason}]}
    usage = call.count(ticket)
    if (call.body["stream_options"] or {}).get("include_usage"):
        yield own | {"choices": [], "usage": usage}
    yield DONE


async def embeddings(call: ClientCall) -> Any:
    """Embed texts."""
    texts = texts_of(call.body["input"])
    most = call.model.max_sentence_tokens
    vectors = await call.encode("input", "embedding", texts, {"normalize": True}, most)
    plain = call.body["encoding_format"] == "float"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector.tolist() if plain else base64.b64encode(vector.tobytes()).decode("ascii"),
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = call.notes["prompt_tokens"]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": call.model.name, "usage": usage}


USAGE: Schema = {"type": "object", "additionalProperties": {"type": "integer"}}
_NUMBERS: Schema = {"type": "array", "items": {"type": "number"}}


def record(**properties: Schema) -> Schema:
    """The schema of an object with these properties, all of which are there."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def listed(items: Schema) -> Schema:
    """The schema of a list."""
    return {"type": "array", "items": items}


TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
_CHOICE = record(
    index=INTEGER,
    text=TEXT,
    logprobs={"type": ["object", "null"]},
    finish_reason={"enum": ["stop", "length", None]},
)
ENDPOINTS = (
    Endpoint(
        "/v1/completions",
        "Continue texts (OpenAI)",
        lambda model: model.writing_task,
        COMPLETION,
        completions,
        record(id=TEXT, object=TEXT, created=INTEGER, model=TEXT, choices=listed(_CHOICE), usage=USAGE),
        "continue texts",
        "prompt",
    ),
    Endpoint(
        "/v1/embeddings",
        "Embed texts (OpenAI)",
        lambda model: "embedding" if "embedding" in model.pipelines else None,
        EMBEDDING,
        embeddings,
        record(
            object=TEXT,
            model=TEXT,
            usage=USAGE,
            data=listed(record(object=TEXT, index=INTEGER, embedding={"anyOf": [_NUMBERS, TEXT]})),
        ),
        "embed texts",
        "input",
    ),
)
