"""The table of what shall be reached, as data: where each figure stands in the results of the other scripts."""

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
    """The first that there is: scripts have called the same thing by several names."""
    return lambda results: next((value for read in reads if (value := read(results)) is not None), None)


def known(value: float) -> Read:
    """A figure of the specification: measured once, on another day, on such a machine."""
    return lambda _: value


def slowest(*reads: Read) -> Read:
    """The largest of those that there are."""
    return lambda results: max((value for read in reads if (value := read(results)) is not None), default=None)


def copied(case: str, *rate: str) -> Read:
    """Seconds for the bytes of a case at a rate in GB/s, both of one file."""

    def read(results: Results) -> float | None:
        size, speed = at("steps", case, "bytes")(results), at(*rate)(results)
        return None if size is None or not speed else size / speed / 1e9

    return read


_NOTHING = known(float("nan"))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        work: what is done.
        where: "GPU", "GPUs" or "CPU".
        unit: of all figures.
        ours: this library's figure.
        peer: what it is compared with.
        target: what shall be reached: a figure, or with ``ratio`` how many times better than the peer.
        limit: what the hardware allows.
        more: whether more is better, as with tokens a second; else less, as with seconds.
        ratio: whether the target is a ratio.
        rival: who the peer is.
    """

    work: str
    where: str
    unit: str
    ours: Read
    peer: Read
    target: float
    limit: Read = _NOTHING
    more: bool = False
    ratio: bool = True
    rival: str = "transformers"


def _cpu_load(title: str, case: str, dtype: str, target: float) -> Row:
    times = [load(case, dtype, *path) for path in (("ready_s", "flagai"), ("ready_s", "transformers"), ("limit_s",))]
    return Row(title, "CPU", "s", times[0], times[1], target, times[2])


_GREEDY, _BEAMS, _SPEED, _STEP = "greedy", "beams 4", "steps a second", "ms a step"
_BFLOAT16 = first(at("int8", "bfloat16, greedy", _SPEED), at("glm", _GREEDY, _SPEED))
_BESIDE_FOUR = first(at("int4", "bfloat16, greedy", _SPEED), _BFLOAT16)
_BEST = "greedy, norms by themselves, larger programs"  # how the first run called what is "greedy" now
_IN_TURN = "sentences_per_second"
_PACKS = at("bert", "packs on the device", "sentences/s")  # ids and their order are there
ROWS = (
    Row("load GLM-10b, bf16, warm", "GPU", "s", at("steps", "GLM warm", "load_s", "flagai"),
        at("steps", "GPT-2 warm", "load_s", "transformers"), 0.85,
        slowest(at("steps", "page cache to memory, seconds by threads", "16"),
                copied("GLM warm", "steps", "GPU", "pinned_to_device_GB_per_s")), ratio=False),
    Row("the same, cold, over the disk", "GPU", "s", at("steps", "GLM cold", "load_s", "flagai"),
        at("steps", "GLM cold", "read_s"), 0.95, rival="reading the files"),
    Row("load it on two GPUs", "GPUs", "s", at("results", "flagai", "load_s"),
        at("results", "transformers", "load_s"), 3),
    Row("decode GLM-10b, bf16, batch 1", "GPU", "tokens/s",
        first(at("int8", "bfloat16, greedy", _SPEED), at("glm", _BEST, _SPEED), at("glm", _GREEDY, _SPEED)),
        first(at("peer10b", _GREEDY, _SPEED), known(24.2)), 135, known(153), more=True, ratio=False),
    Row("the same, 4 beams", "GPU", "steps/s",
        first(at("int8", "bfloat16, beams 4", _SPEED), at("glm", _BEAMS, _SPEED)),
        first(at("peer10b", _BEAMS, _SPEED), known(22.2)), 110, known(150), more=True, ratio=False),
    Row("the same, int8-all, over bf16", "GPU", "tokens/s",
        first(at("int8", "int8-all, greedy", _SPEED), at("int8", "int8, greedy", _SPEED)), _BFLOAT16, 1.7,
        lambda results: 2 * (_BFLOAT16(results) or float("nan")), more=True, rival="ours, bf16"),
    Row("the same, int4-all, over bf16", "GPU", "tokens/s",
        first(at("int4", "int4-all, greedy", _SPEED), at("int4", "int4, greedy", _SPEED)), _BESIDE_FOUR, 2.8,
        lambda results: 4 * (_BESIDE_FOUR(results) or float("nan")), more=True, rival="ours, bf16"),
    Row("decode on two GPUs", "GPUs", "tokens/s",
        first(at("results", "flagai", "decode", _GREEDY, "tokens_s"), at("results", "flagai", "graph_tokens_s")),
        at("results", "transformers", "decode", _GREEDY, "tokens_s"), 10,
        at("results", "flagai", "bandwidth_limit_tokens_s"), more=True),
    Row("T5-base, batch 8, a step", "GPU", "ms", at("t5", "torch.bfloat16", _STEP),
        first(at("t5", "transformers", _STEP), known(21.4)), 1.5, ratio=False),
    Row("GPT-2 124M, a token", "GPU", "ms", at("gpt2", _GREEDY, _STEP),
        at("gpt2", "transformers", _GREEDY, _STEP), 10),
    Row("embed from ids, BERT-base", "GPU", "sentences/s",
        first(at("bert", "from four times as many ids", "sentences/s"), at("bert", "from ids", "sentences/s"),
              at("bert", "from ids, sentences/s")),
        first(at("bert", "transformers", "as they come", "sentences/s"), known(16000)), 55000, _PACKS,
        more=True, ratio=False),
    Row("embed from text, BERT-base", "GPU", "sentences/s",
        first(at("bert", "from four times as many texts", "sentences/s"), at("bert", "from text", "sentences/s")),
        first(at("bert", "transformers", "as they come", "sentences/s"), known(16000)), 40000, _PACKS,
        more=True, ratio=False),
    _cpu_load("load BERT-base, 438 MB", "BERT-base", "float32", 4),
    _cpu_load("load 1.3B in fp16, 2.6 GB", "GPT-2 1.3B, shards", "float16", 2),
    _cpu_load("the same, cast to bf16", "GPT-2 1.3B, shards", "bfloat16", 2),
    _cpu_load("the same, cast to fp32", "GPT-2 1.3B, shards", "float32", 2),
    Row("GPT-2 124M, a token", "CPU", "ms", at("step", _GREEDY, "flagai"), at("step", _GREEDY, "transformers"), 1.5,
        at("step", "limit")),
    Row("GPT-2 124M, 4 beams, a step", "CPU", "ms", at("step", _BEAMS, "flagai"), at("step", _BEAMS, "transformers"),
        1.5, at("step", "limit")),
    Row("titles, 4 beams, one by one", "CPU", "s", at("titles", "one_by_one", "seconds"),
        at("titles", "transformers", "seconds"), 4),
    Row("titles, 4 beams, batch / one by one", "CPU", "s", at("titles", "batch", "seconds"),
        at("titles", "transformers", "seconds"), 4),
    Row("titles, 4 beams, in a batch", "CPU", "s", at("titles", "batch", "seconds"),
        at("titles", "transformers_batch", "seconds"), 4),
    Row("embed, MiniLM, as texts come", "CPU", "sentences/s", at("minilm", _IN_TURN, "flagai"),
        at("minilm", _IN_TURN, "arrival_128"), 4, at("minilm", _IN_TURN, "roof"), more=True),
    Row("embed, BERT-base, as texts come", "CPU", "sentences/s", at("embedding", _IN_TURN, "flagai"),
        at("embedding", _IN_TURN, "arrival_128"), 4, at("embedding", _IN_TURN, "roof"), more=True),
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A row with its figures; the ratios say how many times better than the peer."""

    row: Row
    ours: float
    peer: float
    times: float
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
    ours, peer, limit = row.ours(results), row.peer(results), row.limit(results)
    if ours is None or peer is None or ours <= 0 or peer <= 0:
        return None

    def times(value: float) -> float:
        return value / peer if row.more else peer / value

    allowed = times(limit) if limit is not None and limit > 0 else None
    return Line(row, ours, peer, times(ours), row.target if row.ratio else times(row.target), allowed)
