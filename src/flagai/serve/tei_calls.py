"""The calls of Hugging Face's text-embeddings-inference (TEI)."""

from typing import Any

from flagai.serve.calls import ClientCall, Endpoint, texts_of
from flagai.serve.fields import REQUIRED, Body, BodyField
from flagai.serve.openai_calls import INTEGER, MODEL, NUMBER, TEXT, listed, record
from flagai.serve.refusals import unprocessable
from flagai.serve.task_calls import classified, ranked, similarities

_RIGHT = BodyField("any", "Only texts that fit are read.", default=False, choices=(False, None))
_NONE = BodyField("any", "Not supported.", choices=(None,))
EMBED: Body = {
    "model": MODEL,
    "inputs": BodyField("text or texts", "The texts.", REQUIRED),
    "normalize": BodyField("flag", "Scale vectors to length 1.", default=True),
    "truncate": _RIGHT,
    "truncation_direction": BodyField("text", "Without a meaning: nothing is cut.", choices=("Right", "right", None)),
    "prompt_name": _NONE,
    "dimensions": _NONE,
}
RERANK: Body = {
    "model": MODEL,
    "query": BodyField("text", "What is asked.", REQUIRED),
    "texts": BodyField("texts", "The texts to put into order.", REQUIRED),
    "raw_scores": BodyField("any", "Scores are cosines, or probabilities.", default=False, choices=(False, None)),
    "return_text": BodyField("flag", "Answer with the texts.", default=False),
    "truncate": _RIGHT,
}
PREDICT: Body = {
    "model": MODEL,
    "inputs": BodyField("predict inputs", "A text, a pair [first, second], or a list of [text] and pairs.", REQUIRED),
    "raw_scores": BodyField("any", "Scores are probabilities.", default=False, choices=(False, None)),
    "truncate": _RIGHT,
}


async def embed(call: ClientCall) -> Any:
    """Embed texts."""
    options = {"normalize": call.body["normalize"]}
    texts = texts_of(call.body["inputs"])
    vectors = await call.encode("inputs", "embedding", texts, options, call.model.max_sentence_tokens)
    return [vector.tolist() for vector in vectors]


async def rerank(call: ClientCall) -> Any:
    """Put texts into the order of their similarity to a query."""
    query, texts = call.body["query"], call.body["texts"]
    scores = await similarities(call, "texts", [[query, text] for text in texts])
    order = sorted(enumerate(scores), key=lambda each: -each[1])
    with_text = call.body["return_text"]
    return [{"index": i, "score": score} | ({"text": texts[i]} if with_text else {}) for i, score in order]


async def predict(call: ClientCall) -> Any:
    """The classes of texts, the most probable first."""
    inputs = call.body["inputs"]
    single = isinstance(inputs, str) or isinstance(inputs[0], str)
    if single and not isinstance(inputs, str) and len(inputs) != 2:
        raise unprocessable("inputs", "a list of texts is one pair. Write [[text], [text]] for several texts.")
    found = await classified(call, "inputs", [inputs] if single else inputs)
    rows = [ranked(each) for each in found]
    return rows[0] if single else rows


_SCORED = listed(record(label=TEXT, score=NUMBER))
ENDPOINTS = (
    Endpoint(
        "/embed",
        "Embed texts (TEI)",
        lambda model: "embedding" if "embedding" in model.pipelines else None,
        EMBED,
        embed,
        listed(listed(NUMBER)),
        "embed texts",
        "inputs",
    ),
    Endpoint(
        "/rerank",
        "Order texts by their similarity to a query (TEI)",
        lambda model: "semantic-matching" if "semantic-matching" in model.pipelines else None,
        RERANK,
        rerank,
        listed(record(index=INTEGER, score=NUMBER)),
        "compare texts",
        "texts",
    ),
    Endpoint(
        "/predict",
        "Classes of texts (TEI)",
        lambda model: "classification" if model.classifies else None,
        PREDICT,
        predict,
        {"anyOf": [_SCORED, listed(_SCORED)]},
        "classify texts by a head of its own",
        "inputs",
    ),
)
