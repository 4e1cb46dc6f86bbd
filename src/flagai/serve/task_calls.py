"""flagai's own calls: titles, poems, blanks, entities, similarity and classes."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

from flagai.data.prepare.poem import PoemForm
from flagai.serve.calls import ClientCall, Endpoint, EventStream, texts_of
from flagai.serve.fields import REQUIRED, Body, BodyField, Schema
from flagai.serve.openai_calls import INTEGER, MODEL, NUMBER, TEXT, listed, record
from flagai.serve.refusals import unprocessable
from flagai.serve.work import WorkSpec
from flagai.task_defaults import GENERATION

_SAMPLING = ("seed", "temperature", "top_k", "top_p")
_SEARCHING = ("num_beams", "length_penalty")
WRITING: Body = {
    "model": MODEL,
    "text": BodyField("text or texts", "The text, or several.", REQUIRED),
    "stream": BodyField("flag", "Send the answer to one text in parts, as server-sent events.", default=False),
    "max_new_tokens": BodyField("integer", "Tokens of an answer at most; default the task's.", None, 1),
    "min_new_tokens": BodyField("integer", "Tokens of an answer at least.", None, 0),
    "num_return_sequences": BodyField("integer", "Answers to each text, the best first.", 1, 1),
    "do_sample": BodyField("flag", "Sample, or search; default the task's."),
    "num_beams": BodyField("integer", "Of a search; default the task's.", None, 1),
    "length_penalty": BodyField("number", "Of a search: scores are divided by length ** this.", None, -10, 10),
    "temperature": BodyField("number", "Of sampling: divides the logits.", None, 0.01, 100),
    "top_k": BodyField("integer", "Of sampling: from so many of the most probable tokens; 0 for all.", None, 0),
    "top_p": BodyField("number", "Of sampling: from the fewest tokens with this probability.", None, 0, 1),
    "seed": BodyField("integer", "Of sampling; a text's n-th answer has the seed plus n.", None, 0, 2**53),
    "repetition_penalty": BodyField("number", "Above 1 repeats less.", None, 0.01, 100),
    "stop": BodyField("text or texts", "Texts that end an answer and are not part of it."),
}
TITLE: Body = {
    **WRITING,
    "truncate": BodyField("flag", "Read the beginning of a text that is too long; else it is an error.", default=False),
}
POEM: Body = {
    **WRITING,
    "text": BodyField("text or texts", "The title of the poem, of at most 20 characters.", REQUIRED),
    "form": BodyField("text", "Lines of five or seven characters, four or eight.", choices=tuple(map(str, PoemForm))),
    "strict": BodyField("flag", "Keep tones and rhymes; false: only lines and variety.", default=True),
}
FILL: Body = {
    "model": MODEL,
    "text": BodyField("text or texts", "Texts with [MASK]; for a GLM also [sMASK] and [gMASK].", REQUIRED),
    "num_return_sequences": BodyField("integer", "Fillings of each text, the best first.", 1, 1),
    "max_new_tokens": BodyField("integer", "Tokens of a blank at most (default 64); a BERT fills in one.", None, 1),
    "num_beams": BodyField("integer", "Beams of the search (default 4).", None, 1),
}
NER: Body = {"model": MODEL, "text": BodyField("text or texts", "Texts of any length.", REQUIRED)}
MATCH: Body = {"model": MODEL, "pairs": BodyField("pairs", "Pairs of texts, [[first, second], ...].", REQUIRED)}
CLASSIFY: Body = {
    "model": MODEL,
    "text": BodyField("entries", "A text, or a list of texts or pairs [first, second].", REQUIRED),
    "labels": BodyField("texts", "The names of the classes; a language model needs them."),
}


def _generation_options(call: ClientCall, task: str) -> dict[str, Any]:
    """The options of a pipeline, from those fields that were given.

    Raises:
        RequestError: one is above a limit, or has no effect.
    """
    body = call.body
    names = {*WRITING} - {"model", "text", "stream"}
    given = {name: body[name] for name in names if body[name] is not None}
    for name, most in (
        ("max_new_tokens", call.bounds.new_tokens),
        ("num_return_sequences", call.bounds.answers),
        ("num_beams", call.bounds.answers),
    ):
        if (body[name] or 0) > most:
            raise unprocessable(name, f"{body[name]} is more than this server allows ({most}).")
    default = GENERATION[task].get("do_sample", False) and not (body["num_beams"] or 1) > 1
    samples = default if body["do_sample"] is None else body["do_sample"]
    for name in _SEARCHING if samples else _SAMPLING:
        if body[name] is not None:
            raise unprocessable(name, f"it has no effect with do_sample={str(samples).lower()}. Leave it out.")
    if "stop" in given:
        given["stop"] = texts_of(given["stop"])
    if samples:
        count = len(texts_of(body["text"]))
        given["seeds"] = call.seeds(given.pop("seed", None), 1, 1) * count
    else:
        given["num_beams"] = max(
            body["num_beams"] or GENERATION[task].get("num_beams", 1), body["num_return_sequences"]
        )
    return given


async def title(call: ClientCall) -> Any:
    """Titles of texts."""
    options = _generation_options(call, "title-generation") | {"truncation": call.body["truncate"]}
    return await _write(call, "title-generation", texts_of(call.body["text"]), options)


async def poem(call: ClientCall) -> Any:
    """Poems for titles."""
    texts, form = texts_of(call.body["text"]), call.body["form"]
    prompts = [f"{text}：{form}" if form else text for text in texts]
    options = _generation_options(call, "poetry") | {"strict": call.body["strict"]}
    return await _write(call, "poetry", prompts, options)


async def _write(call: ClientCall, task: str, texts: list[str], options: Mapping[str, Any]) -> Any:
    spec = WorkSpec(task, tuple(texts), options, generates=True)
    if call.body["stream"]:
        if len(texts) > 1 or call.body["num_return_sequences"] > 1:
            raise unprocessable("stream", "it needs one answer to one text.")
        return EventStream(_parts(call, await call.ticket(spec, stream=True)))
    ticket = await call.generate(spec)
    results = [{"answers": [_answer(each) for each in asked.answers()]} for asked in ticket.asked]
    return {"model": call.model.name, "results": results, "usage": call.count(ticket)}


def _answer(answer: Any) -> dict[str, Any]:
    return {"text": answer.written, "score": answer.score, "finished": answer.finished}


async def _parts(call: ClientCall, ticket: Any) -> AsyncIterator[Any]:
    async for _, text, answer in call.streamed(ticket, lambda answer: str(answer.written)):
        yield {"text": text} if answer is None else {"text": text, "answer": _answer(answer)}
    call.count(ticket)


async def fill(call: ClientCall) -> Any:
    """Fill blanks."""
    body, texts = call.body, texts_of(call.body["text"])
    count = body["num_return_sequences"]
    for name, most in (("max_new_tokens", call.bounds.new_tokens), ("num_beams", call.bounds.answers)):
        if (body[name] or 0) > most:
            raise unprocessable(name, f"{body[name]} is more than this server allows ({most}).")
    if count > call.bounds.answers:
        raise unprocessable("num_return_sequences", f"{count} is more than this server allows ({call.bounds.answers}).")
    if call.model.blanks == "tokens":
        for name in ("max_new_tokens", "num_beams"):
            if body[name] is not None:
                raise unprocessable(name, "it has no effect with a BERT, which fills each blank with one token.")
        options = {"num_return_sequences": count}
        found = await call.encode("text", "masklm", texts, options, call.model.max_tokens)
        return _filled(call, found)
    options = {"num_return_sequences": count, "out_max_length": body["max_new_tokens"] or 64}
    options["beam_size"] = max(body["num_beams"] or 4, count)
    ticket = await call.generate(WorkSpec("masklm", tuple(texts), options, generates=True))
    asked: list[Any] = ticket.asked
    return _filled(call, [each.filled() for each in asked])


def _filled(call: ClientCall, found: list[Any]) -> Any:
    results = [{"fillings": [asdict(each) for each in fillings]} for fillings in found]
    return {"model": call.model.name, "results": results}


async def ner(call: ClientCall) -> Any:
    """Entities of texts."""
    found = await call.encode("text", str(call.model.ner_task), texts_of(call.body["text"]), {})
    return {
        "model": call.model.name,
        "results": [{"entities": [asdict(entity) for entity in entities]} for entities in found],
    }


async def match(call: ClientCall) -> Any:
    """How similar the texts of pairs are."""
    scores = await similarities(call, "pairs", call.body["pairs"])
    return {"model": call.model.name, "results": [{"similarity": score} for score in scores]}


async def similarities(call: ClientCall, name: str, pairs: list[Any]) -> list[float]:
    """How similar the texts of pairs are: by a head that was trained for it, or by the cosine of their embeddings.

    Args:
        call: the call.
        name: the field that has the pairs, for errors.
        pairs: pairs of texts.
    """
    model = call.model
    if model.pipelines["semantic-matching"].loaded_for != "embedding":
        return [float(score) for score in await call.encode(name, "semantic-matching", pairs, {}, model.max_tokens)]
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))  # each is embedded once
    found = await call.encode(name, "embedding", texts, {"normalize": True}, model.max_sentence_tokens)
    vectors = dict(zip(texts, found, strict=True))
    return [float(vectors[first] @ vectors[second]) for first, second in pairs]


async def classify(call: ClientCall) -> Any:
    """The classes of texts or pairs."""
    found = await classified(call, "text", call.body["text"], call.body["labels"])
    return {"model": call.model.name, "results": [asdict(each) for each in found]}


async def classified(call: ClientCall, name: str, value: Any, labels: list[str] | None = None) -> list[Any]:
    """The classes of the entries of a field.

    Args:
        call: the call.
        name: the field, for errors.
        value: a text, or a list of texts or pairs.
        labels: the names of the classes.

    Raises:
        RequestError: a language model was given no labels.
    """
    model = call.model
    asks = model.pipelines["classification"].loaded_for == "lm"
    if asks and len(labels or ()) < 2:
        raise unprocessable("labels", f"{model.name} is a language model: name at least two classes to choose from.")
    entries = [value] if isinstance(value, str) else value
    entries = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in entries]
    options = {} if labels is None else {"labels": tuple(labels)}
    return await call.encode(name, "classification", entries, options, model.max_tokens)


def ranked(found: Any) -> list[dict[str, Any]]:
    """The classes of a text with their scores, the most probable first, as Hugging Face's services tell them."""
    best = sorted(found.scores.items(), key=lambda item: -item[1])
    return [{"label": label, "score": score} for label, score in best]


def _has(task: str) -> Any:
    return lambda model: task if task in model.pipelines else None


def _results(item: Schema) -> Schema:
    return record(model=TEXT, results=listed(item))


_WRITTEN = _results(record(answers=listed(record(text=TEXT, score=NUMBER, finished={"type": "boolean"}))))
_SPANS = listed(listed(INTEGER))
_FILLED = record(text=TEXT, spans=_SPANS, fillings=listed(TEXT), score=NUMBER)
ENTITY = record(start=INTEGER, end=INTEGER, type=TEXT, text=TEXT, score=NUMBER)
_SCORES: Schema = {"type": "object", "additionalProperties": NUMBER}
ENDPOINTS = (
    Endpoint("/v1/title", "Titles", _has("title-generation"), TITLE, title, _WRITTEN, "write titles", "text"),
    Endpoint("/v1/poem", "Classical Chinese poems", _has("poetry"), POEM, poem, _WRITTEN, "write poems", "text"),
    Endpoint(
        "/v1/fill",
        "Blanks, filled in place",
        _has("masklm"),
        FILL,
        fill,
        _results(record(fillings=listed(_FILLED))),
        "fill blanks",
        "text",
    ),
    Endpoint(
        "/v1/ner",
        "Named entities; `end` is the last character, inclusive",
        lambda model: model.ner_task,
        NER,
        ner,
        _results(record(entities=listed(ENTITY))),
        "find entities",
        "text",
    ),
    Endpoint(
        "/v1/match",
        "Similarity of pairs",
        _has("semantic-matching"),
        MATCH,
        match,
        _results(record(similarity=NUMBER)),
        "compare texts",
        "pairs",
    ),
    Endpoint(
        "/v1/classify",
        "Classes of texts",
        _has("classification"),
        CLASSIFY,
        classify,
        _results(record(label=TEXT, score=NUMBER, scores=_SCORES)),
        "classify texts",
        "text",
    ),
)
