"""What each family answers on a CPU: run by test_without_kernels.py, with the kernels' package and without it."""

import sys
from typing import Any

import torch

from flagai.auto_model.auto_loader import AutoLoader
from flagai.generation import generate
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.model.predictor.predictor import Predictor
from tests import tiny
from tests.generation.writers import writer

# Classes with a loss, one for each family.
TRAINED = ("BertForMaskLM", "GLMForSeq2Seq", "GPT2Model", "T5Model")
WRITERS = ("bert", "glm", "gpt2", "t5")


def answers() -> dict[str, Any]:
    """Tensors, ids and texts, by what was asked."""
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for name in TRAINED:
        found |= {f"{name} {key}": value for key, value in _trained(name).items()}
    for kind in WRITERS:
        writing = writer(kind)
        for beams in (1, 3):
            rows = generate(writing.model, writing.prompts, writing.decoding(num_beams=beams))
            found[f"{kind} with {beams} beams"] = [[list(each.ids) for each in row] for row in rows]
    loader = AutoLoader("poetry", model_name="GLM-mini-ch")
    tokenizer = loader.get_tokenizer()
    # torch.load takes plain types.
    found["poem"] = str(Predictor(loader.get_model(), tokenizer).write("春江花月夜：七言绝句", out_max_length=16))
    embedder = SentenceEmbedder(tiny.build("BertForEmbedding", vocab_size=tokenizer.vocab_size), tokenizer)
    found["embeddings"] = embedder.embed(["春江", "花月夜"])
    return found


def _trained(name: str) -> dict[str, torch.Tensor]:
    """The outputs of a tiny model, and its loss before and after a step of gradient descent."""
    model, batch = tiny.build(name), tiny.batch(name)
    with torch.inference_mode():
        logits = model(**batch)["logits"]
    losses = []
    for _ in range(2):
        model.zero_grad()
        loss = model(**batch)["loss"]
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.1)
        losses.append(loss.detach())
    return {"logits": logits.clone(), "losses": torch.stack(losses)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save(answers(), sys.argv[1])
