"""Random checkpoints in true formats: what transformers writes, and GLM as flagai writes it for the hub.

Run as a program it writes one checkpoint, in a process of its own, so that the memory goes back afterwards.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Raise it when anything below changes the files, so that old ones are not reused.
_VERSION = 1


@dataclass(frozen=True)
class Case:
    """One checkpoint and who loads it.

    Args:
        title: how the table calls it.
        folder: its folder below the scratch folder.
        module: flagai's module; ``cls`` is the class in it.
        peer: the class of transformers; None if it cannot load the model.
        config: what goes into config.json.
        dtype: the type of the file.
        casts: the other types to load it in.
        pickled: write pytorch_model.bin, not safetensors.
        shard: the largest file.
        quick: part of the quick run.
        together: also load it with four processes at once.
    """

    title: str
    folder: str
    module: str
    cls: str
    peer: str | None
    config: dict[str, Any] = field(repr=False)
    dtype: str = "float32"
    casts: tuple[str, ...] = ("bfloat16",)
    pickled: bool = False
    shard: str = "5GB"
    quick: bool = False
    together: bool = True

    def files(self, scratch: Path) -> list[Path]:
        """The files with weights."""
        return sorted(file for file in (scratch / self.folder).iterdir() if file.suffix in (".safetensors", ".bin"))


_BERT = {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_T5 = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
_GPT2 = {"vocab_size": 50257, "n_embd": 2048, "n_layer": 24, "n_head": 16, "n_positions": 1024}
_GLM = {
    "model_type": "glm",
    "num_layers": 24,
    "vocab_size": 50048,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "max_sequence_length": 1024,
}
CASES = (
    Case("BERT-base", "bert", "bert_model", "BertModel", "BertModel", _BERT, quick=True),
    Case(
        "BERT-base .bin", "bert-bin", "bert_model", "BertModel", "BertModel", _BERT,
        casts=(), pickled=True, quick=True, together=False,
    ),
    Case("T5-base", "t5", "t5_model", "T5Model", "T5ForConditionalGeneration", _T5),
    Case("GLM-large", "glm", "glm_model", "GLMModel", None, _GLM),
    Case(
        "GPT-2 1.3B, shards", "gpt2", "gpt2_model", "GPT2Model", "GPT2LMHeadModel", _GPT2,
        dtype="float16", casts=("bfloat16", "float32"), shard="1GB",
    ),
)  # fmt: skip


def prepare(case: Case, scratch: Path) -> None:
    """Write a checkpoint unless the scratch folder has it already.

    Args:
        case: what to write.
        scratch: where to.
    """
    done = scratch / case.folder / f"complete-{_VERSION}"
    if done.exists():
        return
    shutil.rmtree(scratch / case.folder, ignore_errors=True)
    subprocess.run([sys.executable, __file__, case.folder, str(scratch)], check=True)
    for file in case.files(scratch):  # only pages that are on the disk can be dropped from the cache
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    done.touch()


def write(case: Case, folder: Path) -> None:
    """Draw weights and write them.

    Args:
        case: what to write.
        folder: where to.
    """
    import torch

    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, case.dtype))
    if case.peer is None:
        from flagai.model import glm_model

        model = glm_model.GLMModel(glm_model.GLMConfig.from_dict(case.config))
        model.init_weights()
        model.save_pretrained(folder, layout="huggingface", max_shard_size=case.shard)
        return
    import transformers

    peer: Any = getattr(transformers, case.peer)
    written = peer(peer.config_class(**case.config))
    if case.pickled:
        written.config.save_pretrained(folder)
        torch.save(written.state_dict(), folder / "pytorch_model.bin")
    else:
        written.save_pretrained(folder, max_shard_size=case.shard)


if __name__ == "__main__":
    chosen = next(case for case in CASES if case.folder == sys.argv[1])
    target = Path(sys.argv[2]) / chosen.folder
    target.mkdir(parents=True)
    write(chosen, target)
