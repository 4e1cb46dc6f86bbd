"""What Prometheus reads: requests, latencies, queues, batches, tokens and the use of the cache."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector

from flagai.serve.calls import Served
from flagai.serve.work import EngineWatch

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_TOKENS = (8, 32, 128, 512, 2048, 8192, 32768)


class ServerMetrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("flagai_requests", "Answered requests.", ("path", "status"), **kept)
        self.seconds = Histogram(
            "flagai_request_seconds", "From the first byte to the last.", ("path",), buckets=_SECONDS, **kept
        )
        self.first = Histogram(
            "flagai_first_part_seconds", "Until the first part of a stream.", ("path",), buckets=_SECONDS, **kept
        )
        self.tokens = Counter("flagai_tokens", "Tokens that were read and written.", ("model", "kind"), **kept)
        self.batch = Histogram("flagai_batch_requests", "Requests in a step.", ("model",), buckets=_SIZES, **kept)
        self.step = Histogram("flagai_step_seconds", "Of a step.", ("model",), buckets=_SECONDS, **kept)
        self.pack = Histogram("flagai_pack_texts", "Texts in an encoder's call.", ("model",), buckets=_SIZES, **kept)
        self.pack_tokens = Histogram(
            "flagai_pack_tokens", "Tokens in an encoder's call.", ("model",), buckets=_TOKENS, **kept
        )
        self.call = Histogram("flagai_pack_seconds", "Of an encoder's call.", ("model",), buckets=_SECONDS, **kept)

    def watch(self, model: str) -> EngineWatch:
        """What hears of the iterations of a model's engine."""
        return _Watcher(self, model)

    def follow(self, models: Mapping[str, Served]) -> None:
        """Read queues and caches of these models whenever metrics are read."""
        self._registry.register(_Gauges(models))

    def note(self, path: str, status: int, seconds: float, first: float | None, notes: Mapping[str, Any]) -> None:
        """Count an answer; see :meth:`flagai.serve.desk.Desk.note`."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)
        if first is not None:
            self.first.labels(path).observe(first)
        for kind in ("prompt_tokens", "completion_tokens"):
            if "model" in notes and kind in notes:
                self.tokens.labels(notes["model"], kind.removesuffix("_tokens")).inc(notes[kind])

    def text(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Watcher:
    def __init__(self, metrics: ServerMetrics, model: str) -> None:
        self._batch, self._step = metrics.batch.labels(model), metrics.step.labels(model)
        self._pack, self._tokens = metrics.pack.labels(model), metrics.pack_tokens.labels(model)
        self._call = metrics.call.labels(model)

    def step(self, lanes: int, seconds: float) -> None:
        """See :class:`EngineWatch`."""
        self._batch.observe(lanes)
        self._step.observe(seconds)

    def pack(self, texts: int, tokens: int, seconds: float) -> None:
        """See :class:`EngineWatch`."""
        self._pack.observe(texts)
        self._tokens.observe(tokens)
        self._call.observe(seconds)


class _Gauges(PrometheusCollector):
    """What is so now."""

    def __init__(self, models: Mapping[str, Served]) -> None:
        self._models = models

    def describe(self) -> list[Metric]:
        """Nothing: names need no check."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Queues and caches."""
        pending = GaugeMetricFamily("flagai_pending_texts", "Texts that wait or run.", labels=["model"])
        waiting = GaugeMetricFamily("flagai_waiting_requests", "Requests in the scheduler's queue.", labels=["model"])
        running = GaugeMetricFamily("flagai_running_requests", "Requests that are decoded.", labels=["model"])
        used = GaugeMetricFamily("flagai_cache_used_bytes", "Keys and values of running requests.", labels=["model"])
        most = GaugeMetricFamily("flagai_cache_limit_bytes", "The most bytes of keys and values.", labels=["model"])
        for name, served in self._models.items():
            pending.add_metric([name], served.engine.pending)
            scheduler = served.engine.scheduler
            if scheduler is not None:
                memory = scheduler.memory
                waiting.add_metric([name], len(scheduler.waiting))
                running.add_metric([name], len(scheduler.running))
                used.add_metric([name], (memory.blocks.num_blocks - memory.blocks.num_free) * memory.bytes_per_block)
                most.add_metric([name], memory.most_blocks * memory.bytes_per_block)
        yield from (pending, waiting, running, used, most)
