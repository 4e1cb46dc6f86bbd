"""What a server answers without a model: its page, health, models, limits, metrics and OpenAPI document."""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files

from starlette.responses import HTMLResponse, JSONResponse, Response

from flagai import __version__
from flagai.serve import chat_calls, hub_calls, openai_calls, task_calls, tei_calls
from flagai.serve.bounds import Bounds
from flagai.serve.calls import Endpoint, Served
from flagai.serve.fields import Schema
from flagai.serve.metrics import ServerMetrics
from flagai.serve.openai_calls import INTEGER, TEXT, listed, record
from flagai.serve.openapi import document

ENDPOINTS: tuple[Endpoint, ...] = (
    *openai_calls.ENDPOINTS,
    *chat_calls.ENDPOINTS,
    *task_calls.ENDPOINTS,
    *tei_calls.ENDPOINTS,
    *hub_calls.ENDPOINTS,
)
_MODEL = record(id=TEXT, object=TEXT, created=INTEGER, owned_by=TEXT, tasks=listed(TEXT), paths=listed(TEXT))
# Routes without a body, what they answer, and whether they need a key.
PLAIN: Mapping[str, tuple[str, Schema]] = {
    "/": ("The page", {}),
    "/health": ("Whether all models work", {}),
    "/v1/models": ("The models, their tasks and paths", record(object=TEXT, data=listed(_MODEL))),
    "/info": ("The models and limits (TEI)", record(model_id=TEXT, version=TEXT)),
    "/metrics": ("Metrics for Prometheus", {}),
    "/openapi.json": ("This document", {}),
}
# Those that need no key.
OPEN = ("/", "/health", "/openapi.json")


_POLICY = (
    "default-src 'none'; script-src {script}; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Pages:
    """Answers to GET requests.

    Args:
        models: the models, by their names.
        bounds: the limits.
        metrics: the metrics.
    """

    def __init__(self, models: Mapping[str, Served], bounds: Bounds, metrics: ServerMetrics) -> None:
        self._models = models
        self._bounds = bounds
        self._metrics = metrics
        self._document = document(ENDPOINTS, PLAIN)
        self._page = (files("flagai.serve") / "page.html").read_text(encoding="utf-8")
        self._page_headers = {
            "content-security-policy": _POLICY.format(script=_hash(self._page)),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        self.stopping = False

    def answer(self, path: str) -> Response:
        """The answer to a path, one of ``PLAIN``."""
        handlers = {
            "/": self.page,
            "/health": self.health,
            "/v1/models": self.models,
            "/info": self.info,
            "/metrics": self.metrics,
            "/openapi.json": self.openapi,
        }
        return handlers[path]()

    def page(self) -> Response:
        """The page."""
        return HTMLResponse(self._page, headers=self._page_headers)

    def health(self) -> Response:
        """200 if every model works, 503 if one has failed or the server stops."""
        failed = {
            name: str(each.engine.failure) for name, each in self._models.items() if each.engine.failure is not None
        }
        status = "failed" if failed else "stopping" if self.stopping else "ok"
        return JSONResponse({"status": status, "failed": sorted(failed)}, 200 if status == "ok" else 503)

    def models(self) -> Response:
        """The models, in OpenAI's form, with their tasks and paths."""
        data = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "flagai",
                "parent": each.model.parent,
                "tasks": list(each.model.pipelines),
                "paths": [end.path for end in ENDPOINTS if end.ability(each.model) is not None],
                "language": each.model.language,
                "blanks": each.model.blanks,
                "labels": each.model.classes,
            }
            for name, each in self._models.items()
        ]
        return JSONResponse({"object": "list", "data": data})

    def info(self) -> Response:
        """The models and limits, in TEI's form; of the model that embeds, or the first one."""
        models = list(self._models.values())
        first = next((each.model for each in models if "embedding" in each.model.pipelines), models[0].model)
        bounds = self._bounds
        return JSONResponse(
            {
                "model_id": first.name,
                "model_sha": None,
                "model_dtype": str(next(first.model.parameters()).dtype).removeprefix("torch."),
                "model_type": {"embedding": {"pooling": "mean"}} if "embedding" in first.pipelines else {},
                "max_concurrent_requests": bounds.queue,
                "max_input_length": first.max_sentence_tokens,
                "max_batch_tokens": bounds.pack_tokens,
                "max_client_batch_size": bounds.texts,
                "version": __version__,
                "models": list(self._models),
            }
        )

    def metrics(self) -> Response:
        """The metrics."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def openapi(self) -> Response:
        """The OpenAPI document."""
        return JSONResponse(self._document)


def _hash(page: str) -> str:
    """The page's script as a content security policy names it: nothing else is executed."""
    script = page.partition("<script>")[2].partition("</script>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
