"""Training of sentence embeddings: pairs of texts, each of which has the others of its batch for negatives."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from flagai.data.prepare.batch import Batch
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.model.base_model import BaseModel
from flagai.model.predictor.embedder import SentenceEmbedder
from flagai.model.predictor.predictor import Predictor
from flagai.model.predictor.sentence_folder import SentenceSettings
from flagai.train.objective import Objective
from flagai.train.records import Record

# What says how sentences are embedded, in a folder of sentence-transformers.
_FILES = ("modules.json", "sentence_*_config.json", "config_sentence_transformers.json", "[0-9]_*/*")
_MODULE = "sentence_transformers.models"


def in_batch_loss(first: torch.Tensor, second: torch.Tensor, texts: torch.Tensor, temperature: float) -> torch.Tensor:
    """The cross-entropy of finding each text's partner among the second texts of the batch, by cosine.

    Args:
        first: the vectors of the first texts.
        second: those of their partners.
        texts: the number of each text, first ones and partners, equal for equal texts: these are no negatives.
        temperature: by which cosines are divided.

    Shape:
        [B, width], [B, width], [2 B] -> scalar

    Source:
        Henderson et al. 2017, "Efficient Natural Language Response Suggestion for Smart Reply".
    """
    scores = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature
    count = len(scores)
    same = torch.zeros_like(scores, dtype=torch.bool)
    for numbers in (texts[:count], texts[count:]):
        same |= numbers[:, None] == numbers[None]
    same &= ~torch.eye(count, dtype=torch.bool, device=scores.device)
    return F.cross_entropy(scores.masked_fill(same, -torch.inf), torch.arange(count, device=scores.device))


class Embedding(Objective):
    """Two texts that belong together: a question and its answer, a sentence and its paraphrase."""

    columns = ("text1", "text2")
    metric = "accuracy"
    layout = "huggingface"  # which sentence-transformers reads

    def batch(self, tokenizer: Tokenizer, records: Sequence[Record], seed: int) -> Batch:
        make = self.training.embedding
        assert make is not None  # noqa: S101 - objective_for has seen to it
        first, second = zip(*(self.texts(record) for record in records), strict=True)
        texts, settings = [*first, *second], SentenceSettings.read(tokenizer.description.folder)
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        before = settings.prompt(None, None)
        if before and not settings.pooling.include_prompt:
            raise InputError("The model's pooling leaves out the tokens of its prompt, which is not trained here.")
        read = [(before + text).lower() if settings.lower else before + text for text in texts]
        longest = min(self.recipe.max_length, settings.max_length or self.recipe.max_length)
        return make(tokenizer, read, longest) | {"labels": torch.tensor([numbers[text] for text in texts])}

    def is_cut(self, tokenizer: Tokenizer, counts: Sequence[int]) -> bool:
        return max(counts) + 2 > self.recipe.max_length

    def loss(self, model: Any, batch: Batch, tokenizer: Tokenizer) -> torch.Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        pooling = SentenceSettings.read(tokenizer.description.folder).pooling
        vectors = pooling.of_padded(model(**inputs)["hidden_states"], inputs["attention_mask"])
        first, second = vectors.chunk(2)
        return in_batch_loss(first, second, batch["labels"], self.recipe.temperature)

    def metrics(self, run: Predictor, records: Sequence[Record]) -> dict[str, float]:
        """How often the nearest of all second texts is the own one, or one that is equal to it."""
        embedder = SentenceEmbedder(run.model, run.tokenizer, self.recipe.max_length)
        first, second = ([self.texts(record)[side] for record in records] for side in (0, 1))
        nearest = (embedder.embed(first, normalize=True) @ embedder.embed(second, normalize=True).T).argmax(-1)
        return {"accuracy": sum(second[found] == own for found, own in zip(nearest, second, strict=True)) / len(first)}

    def files(self, model: BaseModel, tokenizer: Tokenizer) -> dict[str, bytes]:
        folder = tokenizer.description.folder
        found = [path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()]
        if found:
            return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
        pooling = {"word_embedding_dimension": model.backbone.hidden_width, "pooling_mode_mean_tokens": True}
        return {"modules.json": _MODULES, "1_Pooling/config.json": json.dumps(pooling).encode()}


def _module(number: int, path: str, name: str) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": path, "type": f"{_MODULE}.{name}"}


# A folder without such files is mean-pooled; so that sentence-transformers does it, too:
_MODULES = json.dumps([_module(0, "", "Transformer"), _module(1, "1_Pooling", "Pooling")]).encode()
