"""BERT-base embeddings on one GPU, for decode.py: from packs, from ids and from text, beside transformers."""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks._decode_common import clocked, kernel_times, made, noted, replaced
from benchmarks._decode_peers import bert_peer
from flagai.data.tokenizer import Tokenizer
from flagai.kernels.packed import attention as packed
from flagai.model.bert_model import BertForEmbedding
from flagai.model.layer.kernel_choice import only_kernels
from flagai.model.packing import PackedBatch, pack_sequences
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.model.predictor.embedding import packed_means

BERT_BASE = {
    "model_type": "bert", "vocab_size": 21128, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512,
}  # fmt: skip
_VOCABULARY = Path(__file__).parent.parent / "tests" / "vocab" / "bert-base-chinese-vocab.txt"
_COUNT = 16384
_CUDA = torch.device("cuda")


@torch.inference_mode()
def bert(options: Any) -> dict[str, Any]:
    """Sentences a second: log-normal lengths, 5 to 128, mean 30; lists of ids, and Chinese text of as many tokens."""
    model = made(BertForEmbedding, BERT_BASE)
    found: dict[str, Any] = {}
    tokenizer, texts, ids = material(4 * _COUNT)
    lengths = [len(row) for row in ids[:_COUNT]]
    found["mean length"] = round(sum(lengths) / _COUNT, 2)
    found["GFLOP a sentence"] = round(_products(ids[:_COUNT]) / _COUNT / 1e9, 4)
    noted(found, "equal", lambda: _equal(model, tokenizer, texts[:512], ids[:512]))
    noted(found, "packs on the device", lambda: _of_packs(model, ids[:_COUNT]))
    noted(found, "from ids", lambda: _speed(lambda: packed_means(model, ids[:_COUNT]), _COUNT))
    noted(found, "from four times as many ids", lambda: _speed(lambda: packed_means(model, ids), len(ids)))
    embedder = SentenceEmbedder(model, tokenizer)
    noted(found, "from text", lambda: _speed(lambda: embedder.embed(texts[:_COUNT]), _COUNT))
    noted(found, "from four times as many texts", lambda: _speed(lambda: embedder.embed(texts), len(texts)))
    noted(found, "tokens alone", lambda: _speed(lambda: tokenizer.encode_many(texts), len(texts)))
    with replaced(model, packed, "_suits_short", lambda *_: False):
        noted(found, "packs on the device, flash attention", lambda: _of_packs(model, ids[:_COUNT]))
    with only_kernels("packed.attention.attend_packed"):
        noted(found, "packs on the device, sums and norms apart", lambda: _of_packs(model, ids[:_COUNT]))
    noted(found, "waits", lambda: _waits(lambda: packed_means(model, ids[:_COUNT])))
    noted(found, "profile", lambda: _profile(model, ids[:_COUNT]))
    noted(found, "transformers", lambda: bert_peer(ids[:_COUNT], BERT_BASE))
    return found


def material(count: int) -> tuple[Tokenizer, list[str], list[list[int]]]:
    """A tokenizer, texts of characters that each are one of its tokens, and their ids."""
    generator = torch.Generator().manual_seed(0)
    words = _VOCABULARY.read_text(encoding="utf-8").rstrip("\n").split("\n")  # some tokens are line separators
    han = [word for word in words if len(word) == 1 and "\u4e00" <= word <= "\u9fff"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        tokenizer = Tokenizer.from_folder(folder, "bert-base-chinese")
    lengths = (torch.randn(count, generator=generator) * 0.65 + 3.2).exp().round().clamp(5, 128).long()
    chosen = torch.randint(len(han), [int(lengths.sum())], generator=generator)
    texts = ["".join(han[place] for place in part) for part in chosen.split([*(lengths - 2).tolist(), 2 * count])[:-1]]
    cls, sep = tokenizer.get_command_id("cls"), tokenizer.get_command_id("sep")
    return tokenizer, texts, [[cls, *row, sep] for row in tokenizer.encode_many(texts)]


def _speed(work: Callable[[], Any], count: int, rounds: int = 3) -> dict[str, float]:
    work()
    seconds = statistics.median(clocked(work) for _ in range(rounds))
    return {"sentences/s": round(count / seconds), "ms": round(1e3 * seconds, 1)}


def _equal(model: Any, tokenizer: Tokenizer, texts: list[str], ids: list[list[int]]) -> dict[str, Any]:
    """Texts and ids give the same; kernels and torch lie equally near to float32."""
    fast = packed_means(model, ids)
    again = SentenceEmbedder(model, tokenizer).embed(texts)
    with only_kernels("packed.attention.attend_packed"), replaced(model, packed, "_suits_short", lambda *_: False):
        plain = packed_means(model, ids)
    exact = packed_means(made(BertForEmbedding, BERT_BASE, torch.float32), ids)
    return {
        "text and ids, largest difference": float((fast - again).abs().max()),
        "kernels from float32": float((fast - exact).abs().max()),
        "torch from float32": float((plain - exact).abs().max()),
        "mean of kernels": float((fast - exact).abs().mean()),
        "mean of torch": float((plain - exact).abs().mean()),
    }


def _run(model: Any, ready: list[PackedBatch]) -> None:
    for pack in ready:
        pack.row.mean(model(**pack.arguments)["hidden_states"])


def _of_packs(model: Any, ids: list[list[int]], tokens: int | None = None) -> dict[str, float]:
    ready = list(pack_sequences(ids, device=_CUDA, tokens=tokens))
    found = _speed(lambda: _run(model, ready), len(ids))
    return found | {"TFLOP/s": round(_products(ids) / found["ms"] / 1e9)}


def _products(ids: list[list[int]]) -> float:
    """Floating-point operations of the blocks' matrix products, of real tokens only."""
    return 2 * sum(map(len, ids)) * 12 * (4 * 768 * 768 + 2 * 768 * 3072)


def _waits(work: Callable[[], Any]) -> int:
    """How often the host waits for the device."""
    import warnings

    work()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return len(caught)


def _profile(model: Any, ids: list[list[int]]) -> list[dict[str, Any]]:
    ready = list(pack_sequences(ids, device=_CUDA))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        _run(model, ready)
        torch.cuda.synchronize()
    return kernel_times(seen, 10)
