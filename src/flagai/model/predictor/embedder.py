"""Sentence embeddings and the similarity of sentences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from flagai.data.tokenizer.wordpiece import load_wordpiece
from flagai.errors import InputError
from flagai.model.bert_model import BertForEmbedding
from flagai.model.packing import packs
from flagai.model.placement import Device, Dtype, read_device


class SentenceEmbedder:
    """Turns sentences into the mean of their tokens' last hidden states.

    Args:
        model: a BERT.
        tokenizer: its tokenizer.
        max_length: tokens of a text that are read, special ones included; at most the model's positions.
    """

    def __init__(self, model: BertForEmbedding, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        longest = model.config.longest_text
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.tokenizer.enable_truncation(min(max_length or longest, longest))

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        device: Device = "cpu",
        dtype: Dtype | None = None,
        max_length: int | None = None,
    ) -> Self:
        """Load model and tokenizer from one folder.

        Args:
            folder: ``config.json``, weights, and ``tokenizer.json`` or ``vocab.txt``.
            device: where the model shall be.
            dtype: the parameters' type; default float32 on a CPU, else the checkpoint's.
            max_length: tokens of a text that are read.

        Raises:
            FlagAIError: the folder is not complete or does not fit together.
        """
        if dtype is None and read_device(device).type == "cpu":
            dtype = torch.float32
        model = BertForEmbedding.from_pretrained(folder, device=device, dtype=dtype)
        return cls(model, load_wordpiece(folder), max_length)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], *, normalize: bool = False) -> torch.Tensor:
        """Embed sentences.

        Args:
            texts: the sentences; what exceeds ``max_length`` is cut off.
            normalize: scale every vector to length 1.

        Shape:
            -> [len(texts), width], float32, on the CPU, in the order of the texts

        Raises:
            InputError: an element is not text.
        """
        vectors = self.embed_ids(self._encode(texts))
        return F.normalize(vectors, dim=-1) if normalize else vectors

    @torch.inference_mode()
    def embed_ids(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Embed sentences that are token ids already, special ones included; see :meth:`embed`.

        Raises:
            InputError: a text is empty or longer than the model's positions.
        """
        device = self.model.device
        vectors = torch.empty(len(texts), self.model.config.hidden_size, device=device)
        for pack in packs(texts, device=device, limit=self.model.config.longest_text):
            hidden = self.model(**pack.arguments)["hidden_states"]
            vectors[torch.tensor(pack.indices).to(device)] = pack.row.mean(hidden)
        return vectors.cpu()

    def match(self, first: Sequence[str], second: Sequence[str]) -> torch.Tensor:
        """The cosine similarity of each pair of sentences, [len(first)].

        Raises:
            InputError: the sequences differ in length, or an element is not text.
        """
        if len(first) != len(second):
            raise InputError(f"match needs pairs, but got {len(first)} and {len(second)} sentences.")
        vectors = self.embed([*first, *second], normalize=True)
        return (vectors[: len(first)] * vectors[len(first) :]).sum(-1)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise InputError("embed takes a list of sentences; put the single one into a list.")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"Sentence {index} is a {type(text).__name__}, not text.")
        # Lone surrogates cannot be encoded; they become the replacement character, which BERT drops.
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(clean)]
