"""The benchmark table as data: targets, peers, limits, and where each figure stands in the other scripts' results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Sequence[Mapping[str, Any]]  # the newest first
Read = Callable[[Results], float | None]


def at(*path: str) -> Read:
    """The number at a path of keys, in the newest file that has it."""

    def read(results: Results) -> float | None:
        for found in results:
            value: Any = found
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, int | float):
                return float(value)
        return None

    return read


def load(case: str, dtype: str, *path: str) -> Read:
    """A time of load.py on a CPU, out of a warm page cache."""

    def read(results: Results) -> float | None:
        for found in results:
            for row in found.get("times", ()):
                if (row.get("case"), row.get("dtype"), row.get("cache")) == (case, dtype, "warm"):
                    return at(*path)([row])
        return None

    return read


def first(*reads: Read) -> Read:
    """The first figure that was measured: earlier scripts used other names."""
    return lambda results: next((value for read in reads if (value := read(results)) is not None), None)


def largest(*reads: Read) -> Read:
    """The largest of the figures that were measured."""
    return lambda results: max((value for read in reads if (value := read(results)) is not None), default=None)


def copied(case: str, *rate: str) -> Read:
    """Seconds for the bytes of a case at a rate in GB/s, both of one file."""

    def read(results: Results) -> float | None:
        size, speed = at("steps", case, "bytes")(results), at(*rate)(results)
        return None if size is None or not speed else size / speed / 1e9

    return read


def bandwidth(*size: str) -> Read:
    """Steps a second that a device copy's bandwidth allows, if a step reads these gigabytes once."""

    def read(results: Results) -> float | None:
        for found in results:
            speed, amount = at("limits", "copy TB/s")([found]), at(*size)([found])
            if speed and amount:
                return 1e3 * speed / amount
        return None

    return read


def milliseconds(rate: Read) -> Read:
    """The time of one step at a rate a second."""
    return lambda results: 1e3 / value if (value := rate(results)) else None


def products(results: Results) -> float | None:
    """Sentences a second that the matrix products of BERT-base take at the rate of a large product."""
    rate, work = at("limits", "matmul TFLOP/s")(results), at("bert", "GFLOP a sentence")(results)
    return 1e3 * rate / work if rate and work else None


def nothing(_: Results) -> float | None:
    """No figure."""
    return None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        work: what is done.
        where: "GPU", "GPUs" or "CPU".
        unit: of all figures.
        ours: this library's figure.
        rival: the peer and the model that it runs.
        peer: the peer's figure as it runs by default.
        target: what shall be reached: a figure, or with ``ratio`` how many times better than ``peer``.
        tuned: the peer's figure as an engineer would tune it, of the same run.
        tuning: how the peer is tuned.
        limit: what the hardware allows: the bytes or matrix products that the work needs at least, at the rate of a
            plain copy, read or product, measured in the same run.
        more: whether more is better, as with tokens per second; else less, as with seconds.
        ratio: whether the target is a ratio.
    """

    work: str
    where: str
    unit: str
    ours: Read
    rival: str
    peer: Read
    target: float
    tuned: Read = nothing
    tuning: str = ""
    limit: Read = nothing
    more: bool = False
    ratio: bool = True


def _cpu_load(title: str, case: str, rival: str, dtype: str, target: float) -> Row:
    ours, peer, limit = (
        load(case, dtype, *path) for path in (("ready_s", "flagai"), ("ready_s", "transformers"), ("limit_s",))
    )
    return Row(title, "CPU", "s", ours, f"transformers, {rival}", peer, target, limit=limit)


def _cpu_step(title: str, search: str) -> Row:
    ours, peer, tuned = (at("step", search, name) for name in ("flagai", "transformers", "tuned"))
    return Row(title, "CPU", "ms", ours, _GPT2, peer, 1.5, tuned, _STATIC, at("step", "limit"))


def _cpu_embedding(title: str, part: str, rival: str) -> Row:
    ours, peer, tuned, roof, linear = (
        at(part, "sentences_per_second", name) for name in ("flagai", "arrival_128", "sorted_32", "roof", "roof_torch")
    )
    return Row(title, "CPU", "sentences/s", ours, f"transformers, {rival}, batches of 128 as they come", peer, 4,
               tuned, "batches of 32 sorted by length", largest(roof, linear), more=True)  # fmt: skip


def _small(how: str, target: float) -> Row:
    bits = how.removesuffix("-all")
    ours, peer = at(bits, f"{how}, greedy", _SPEED), at(bits, "bfloat16, greedy", _SPEED)
    limit = bandwidth(bits, f"{how}, GB")
    return Row(
        f'the same, quantize="{how}"', "GPU", "tokens/s", ours, "flagai in bf16", peer, target, limit=limit, more=True
    )


def _bert(title: str, ours: str, target: float) -> Row:
    peer, tuned, compiled = (
        at("bert", "transformers", name, "sentences/s") for name in ("as they come", "sorted", "sorted, compiled")
    )
    rival = "transformers, BERT-base, batches of 256 as they come"
    return Row(title, "GPU", "sentences/s", at("bert", ours, "sentences/s"), rival, peer, target,
               largest(tuned, compiled), "sorted by length, eager or compiled", products,
               more=True, ratio=False)  # fmt: skip


def _many(
    title: str, unit: str, part: str, name: str, figure: str, target: float, *others: Read, more: bool = True
) -> Row:
    """A row of many.py; ``others`` are further ways in which the peer was tuned."""
    ours, peer, tuned = (at("many", side, name, figure) for side in (part, "peers", "tuned"))
    return Row(title, "GPU", unit, ours, _GPT2_355M, peer, target, largest(tuned, *others), _SORTED,
               at("many", part, name, "limit"), more=more, ratio=False)  # fmt: skip


_GPT2_355M = "transformers, a GPT-2 of the same shape"
_SORTED = "sorted by length, static cache, compiled; 512 also by generate_batch"
_GREEDY, _BEAMS, _SPEED, _STEP = "greedy", "beams 4", "steps per second", "ms a step"
_STATIC = "static cache, compiled"
_GPT2 = "transformers, GPT-2 124M"
_GPT2_10B = "transformers, a GPT-2 of as many parameters"
_LLAMA = "transformers, a Llama of as many parameters"
_TITLES = "transformers, the same GPT-2"
ROWS = (
    Row("load GLM-10b, bf16, warm", "GPU", "s", at("steps", "GLM warm", "load_s", "flagai"), _GPT2_10B,
        at("steps", "GPT-2 warm", "load_s", "transformers"), 0.85,
        limit=largest(at("steps", "page cache to memory, seconds by threads", "16"),
                      copied("GLM warm", "steps", "GPU", "pinned_to_device_GB_per_s")), ratio=False),
    Row("load a GPT-2 of 10B, bf16, warm", "GPU", "s", at("steps", "GPT-2 warm", "load_s", "flagai"),
        "transformers, the same files",
        at("steps", "GPT-2 warm", "load_s", "transformers"), 4.5,
        limit=largest(at("steps", "page cache to memory, seconds by threads", "16"),
                      copied("GPT-2 warm", "steps", "GPU", "pinned_to_device_GB_per_s"))),
    Row("load GLM-10b, cold, over the disk", "GPU", "s", at("steps", "GLM cold", "load_s", "flagai"),
        "plain reads of the files", at("steps", "GLM cold", "read_s"), 0.95, limit=at("steps", "GLM cold", "read_s")),
    Row("load GLM-10b on two GPUs", "GPUs", "s", at("results", "flagai", "load_s"), _LLAMA,
        at("results", "transformers", "load_s"), 3),
    Row("decode GLM-10b, bf16, batch 1", "GPU", "tokens/s", at("int8", "bfloat16, greedy", _SPEED), _GPT2_10B,
        at("peer10b", _GREEDY, _SPEED), 135, at("peer10b", "greedy, tuned", _SPEED), _STATIC,
        bandwidth("int8", "bfloat16, GB"), more=True, ratio=False),
    Row("the same, 4 beams", "GPU", "steps/s", at("int8", "bfloat16, beams 4", _SPEED), _GPT2_10B,
        at("peer10b", _BEAMS, _SPEED), 110, at("peer10b", "beams 4, tuned", _SPEED), _STATIC,
        bandwidth("int8", "bfloat16, GB"), more=True, ratio=False),
    _small("int8", 1.7), _small("int8-all", 1.7), _small("int4", 2.8), _small("int4-all", 2.8),
    Row("decode on two GPUs", "GPUs", "tokens/s", at("results", "flagai", "decode", _GREEDY, "tokens_s"), _LLAMA,
        at("results", "transformers", "decode", _GREEDY, "tokens_s"), 10,
        at("results", "transformers", "decode", "greedy, tuned", "tokens_s"), _STATIC,
        at("results", "flagai", "bandwidth_limit_tokens_s"), more=True),
    Row("T5-base, batch 8, a step", "GPU", "ms", at("t5", "torch.bfloat16", _STEP), "transformers, T5-base",
        first(at("t5", "transformers", _GREEDY, _STEP), at("t5", "transformers", _STEP)), 1.5,
        at("t5", "transformers", "greedy, tuned", _STEP), _STATIC, milliseconds(bandwidth("t5", "GB")), ratio=False),
    Row("GPT-2 124M, a token", "GPU", "ms", at("gpt2", _GREEDY, _STEP), _GPT2,
        at("gpt2", "transformers", _GREEDY, _STEP), 10, at("gpt2", "transformers", "greedy, tuned", _STEP), _STATIC,
        milliseconds(bandwidth("gpt2", "GB"))),
    _many("GLM of 24 x 1024, one text, a step", "ms", "single", "step after 20", "ms", 0.33, more=False),
    _many("the same, a call up to its first token", "ms", "single", "first token", "ms", 8, more=False),
    *(_many(f"the same, {count} texts in one call", "tokens/s", "batch", f"batch {count}", "tokens/s", target)
      for count, target in ((16, 18000), (64, 50000), (256, 110000))),
    _many("the same, 512 texts in one call", "tokens/s", "batch", "batch 512", "tokens/s", 125000,
          at("many", "peers", "generate_batch 512", "tokens/s")),
    Row("memory of 512 texts in one call", "GPU", "GB", at("many", "batch", "batch 512", "peak GB"),
        "weights, keys and values", at("many", "batch", "batch 512", "needed GB"), 0.87),
    _many("64 samples of one text, 256 tokens", "tokens/s", "samples", "samples 64", "tokens/s", 40000),
    _many("4 beams, 64 texts in one call", "answers/s", "beams", "beams, batch 64", "answers/s", 380),
    Row("4,000 requests of mixed lengths", "GPU", "tokens/s", at("many", "stream", "all at once", "tokens/s"),
        "flagai, 512 texts in one call", at("many", "stream", "fixed batch", "tokens/s"), 0.85, more=True),
    Row("titles by GLM-mini-ch, 4 beams, 1,024 in one call", "GPU", "titles/s",
        largest(at("many", "titles", "titles 1024", "titles/s"), at("many", "titles", "titles 1024, bf16", "titles/s")),
        "transformers, a GPT-2 of the same shape, sorted by length", at("many", "peers", "titles", "titles/s"), 3000,
        more=True, ratio=False),
    _bert("embed from ids, BERT-base", "from four times as many ids", 55000),
    _bert("embed from text, BERT-base", "from four times as many texts", 40000),
    _cpu_load("load BERT-base, 438 MB", "BERT-base", "BERT-base", "float32", 4),
    _cpu_load("load 1.3B in fp16, 2.6 GB", "GPT-2 1.3B, shards", "GPT-2 1.3B", "float16", 2),
    _cpu_load("the same, cast to bf16", "GPT-2 1.3B, shards", "GPT-2 1.3B", "bfloat16", 2),
    _cpu_load("the same, cast to fp32", "GPT-2 1.3B, shards", "GPT-2 1.3B", "float32", 2),
    _cpu_step("GPT-2 124M, a token", _GREEDY),
    _cpu_step("GPT-2 124M, 4 beams, a step", _BEAMS),
    Row("titles, 4 beams, one by one", "CPU", "s", at("titles", "one_by_one", "seconds"), f"{_TITLES}, one by one",
        at("titles", "transformers", "seconds"), 4),
    Row("titles, 4 beams, in a batch", "CPU", "s", at("titles", "batch", "seconds"), f"{_TITLES}, in a batch",
        at("titles", "transformers_batch", "seconds"), 4, at("titles", "transformers_tuned", "seconds"), _STATIC),
    Row("a file of 2,000 titles, 4 beams", "CPU", "titles/s", at("many", "file", "flagai", "titles/s"),
        f"{_TITLES}, as they come", at("many", "file", "transformers, as they come", "titles/s"), 4,
        at("many", "file", "transformers, sorted", "titles/s"), "sorted by length", more=True),
    _cpu_embedding("embed, MiniLM, as texts come", "minilm", "all-MiniLM-L6-v2"),
    _cpu_embedding("embed, BERT-base, as texts come", "embedding", "BERT-base"),
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A row with its figures; ``times``, ``target`` and ``limit`` are ratios to the peer as it runs by default."""

    row: Row
    ours: float
    peer: float
    tuned: float | None
    allowed: float | None
    times: float
    over_tuned: float | None
    target: float
    limit: float | None

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.times >= self.target


def lines(results: Results) -> list[tuple[Row, Line | None]]:
    """The table; None where a figure is missing."""
    return [(row, _line(row, results)) for row in ROWS]


def _line(row: Row, results: Results) -> Line | None:
    ours, peer, tuned, limit = (read(results) or None for read in (row.ours, row.peer, row.tuned, row.limit))
    if ours is None or peer is None:
        return None

    def times(value: float, base: float = peer) -> float:
        return value / base if row.more else base / value

    return Line(
        row, ours, peer, tuned, limit, times(ours), tuned and times(ours, tuned),
        row.target if row.ratio else times(row.target), limit and times(limit),
    )  # fmt: skip
