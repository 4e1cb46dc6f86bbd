"""The calls of Hugging Face's ``InferenceClient``: ``/models/MODEL/pipeline/TASK``."""

import math
from collections.abc import Mapping
from typing import Any

from flagai.serve.calls import ClientCall, Endpoint, texts_of
from flagai.serve.fields import REQUIRED, Body, BodyField
from flagai.serve.openai_calls import INTEGER, MODEL, NUMBER, TEXT, listed, only, record
from flagai.serve.task_calls import classified, ranked, similarities

PREFIX = "/models/{model}/pipeline"
_TEXT = BodyField("text", "The text.", REQUIRED)
_TEXTS = BodyField("text or texts", "The text, or several.", REQUIRED)
_SOURCE: Body = {
    "source_sentence": BodyField("text", "The text to compare with.", REQUIRED),
    "sentences": BodyField("texts", "The texts.", REQUIRED),
}
_TOP: Body = {"top_k": BodyField("integer", "How many, the best first.", 5, 1)}
FEATURES: Body = {
    "model": MODEL,
    "inputs": _TEXTS,
    "normalize": BodyField("flag", "Scale vectors to length 1.", default=False),
    "truncate": only("Only texts that fit are read.", False),
    "truncation_direction": BodyField("any", "Without a meaning: nothing is cut.", choices=("Right", "right", None)),
    "prompt_name": only("Not supported.", None),
    "dimensions": only("Not supported.", None),
    "encoding_format": only("Only numbers.", "float"),
}


def _parameters(fields: Body) -> BodyField:
    return BodyField("object", "Options.", {}, fields=fields)


def _body(inputs: BodyField, parameters: Body | None = None) -> Body:
    return {"model": MODEL, "inputs": inputs, "parameters": _parameters(parameters or {})}


async def features(call: ClientCall) -> Any:
    """Vectors of texts."""
    options = {"normalize": call.body["normalize"]}
    texts = texts_of(call.body["inputs"])
    found = await call.encode("inputs", "embedding", texts, options, call.model.max_sentence_tokens)
    return [vector.tolist() for vector in found]


async def sentence_similarity(call: ClientCall) -> Any:
    """Similarities of texts with one."""
    inputs: Mapping[str, Any] = call.body["inputs"]
    return await similarities(call, "inputs", [[inputs["source_sentence"], text] for text in inputs["sentences"]])


async def tokens(call: ClientCall) -> Any:
    """Entities; here ``end`` is exclusive, as in transformers."""
    (found,) = await call.encode("inputs", str(call.model.ner_task), [call.body["inputs"]], {})
    return [
        {"entity_group": each.type, "score": each.score, "word": each.text, "start": each.start, "end": each.end + 1}
        for each in found
    ]


async def text_classes(call: ClientCall) -> Any:
    """The classes of a text, the most probable first."""
    (found,) = await classified(call, "inputs", call.body["inputs"])
    return [ranked(found)[: call.body["parameters"]["top_k"]]]


async def masks(call: ClientCall) -> Any:
    """Fillings of a text with one mask, the most probable first."""
    options = {"num_return_sequences": call.body["parameters"]["top_k"]}
    (found,) = await call.encode("inputs", "masklm", [call.body["inputs"]], options, call.model.max_tokens)
    tokenizer = call.model.tokenizer
    return [
        {
            "score": math.exp(each.score),
            "token": next(iter(tokenizer.encode(each.fillings[0])), None),
            "token_str": each.fillings[0],
            "sequence": each.text,
        }
        for each in found
    ]


_TAGGED = record(entity_group=TEXT, score=NUMBER, word=TEXT, start=INTEGER, end=INTEGER)
_CLASSES: Body = {
    **_TOP,
    "function_to_apply": only("Not supported.", None),
}
ENDPOINTS = (
    Endpoint(
        f"{PREFIX}/feature-extraction",
        "Embed texts (Hugging Face)",
        lambda model: "embedding" if "embedding" in model.pipelines else None,
        FEATURES,
        features,
        listed(listed(NUMBER)),
        "embed texts",
        "inputs",
    ),
    Endpoint(
        f"{PREFIX}/sentence-similarity",
        "Compare texts (Hugging Face)",
        lambda model: "semantic-matching" if "semantic-matching" in model.pipelines else None,
        _body(BodyField("object", "The texts.", REQUIRED, fields=_SOURCE)),
        sentence_similarity,
        listed(NUMBER),
        "compare texts",
        "inputs",
    ),
    Endpoint(
        f"{PREFIX}/token-classification",
        "Entities; `end` is exclusive (Hugging Face)",
        lambda model: model.ner_task,
        _body(_TEXT, {"aggregation_strategy": only("Entities are whole.", "simple"), "stride": only("-", None)}),
        tokens,
        listed(_TAGGED),
        "find entities",
        "inputs",
    ),
    Endpoint(
        f"{PREFIX}/text-classification",
        "Classes of a text (Hugging Face)",
        lambda model: "classification" if model.classifies else None,
        _body(_TEXT, _CLASSES),
        text_classes,
        listed(listed(record(label=TEXT, score=NUMBER))),
        "classify texts by a head of its own",
        "inputs",
    ),
    Endpoint(
        f"{PREFIX}/fill-mask",
        "Fill a mask (Hugging Face)",
        lambda model: "masklm" if model.blanks == "tokens" else None,
        _body(_TEXT, _TOP),
        masks,
        listed(record(score=NUMBER, token=INTEGER, token_str=TEXT, sequence=TEXT)),
        "fill a mask with a token",
        "inputs",
    ),
)
