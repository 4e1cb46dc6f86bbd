"""Sentence embeddings and the similarity of sentences."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch.nn import functional as F

from flagai.checkpoint.steady import read_one_version
from flagai.checks import check_flag, check_path
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError, ModelNotFoundError
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import BertForEmbedding
from flagai.model.block.compile import compile_blocks
from flagai.model.device import Device, Dtype, read_device
from flagai.model.predictor.arguments import as_list, check_parts
from flagai.model.predictor.embedding import packed_means, text_vectors
from flagai.model.predictor.sentence_folder import check_similarity


class SentenceEmbedder:
    """Turns sentences into the mean of their tokens' last hidden states.

    Args:
        model: a BERT, or another model that the Predictor can embed with.
        tokenizer: its tokenizer.
        max_length: tokens of a text that are read, special ones included; at most the model's positions. Default: what
            the folder says (``max_seq_length``), or all positions.
        strict: whether a text of another language, most of whose words the vocabulary does not know, is an error;
            else it is a warning.

    Raises:
        InputError: there is no model or no tokenizer.
    """

    def __init__(
        self, model: BaseModel, tokenizer: Tokenizer, max_length: int | None = None, *, strict: bool = False
    ) -> None:
        check_parts("SentenceEmbedder", model, tokenizer)
        check_flag("strict", strict)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.strict = strict

    def __repr__(self) -> str:
        return f"SentenceEmbedder({type(self.model).__name__}, {self.tokenizer!r}, max_length={self.max_length})"

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        device: Device = "cpu",
        dtype: Dtype | None = None,
        max_length: int | None = None,
        quantize: str | None = None,
        compile: bool = False,  # noqa: A002  # its name everywhere
    ) -> Self:
        """Load a BERT and its tokenizer from one folder.

        Args:
            folder: ``config.json``, weights, and ``tokenizer.json`` or ``vocab.txt``.
            device: where the model shall be.
            dtype: the parameters' type; default float32 on a CPU, else the checkpoint's.
            max_length: tokens of a text that are read.
            quantize: "int8" or "int4" keeps the weights in fewer bits.
            compile: have torch.compile translate the blocks: half a minute at the first call, for what little it gives.

        Raises:
            ModelNotFoundError: there is no such folder.
            FlagAIError: the folder is not complete or does not fit together.
        """
        folder = check_path("folder", folder)
        check_flag("compile", compile)
        if not os.path.isdir(folder):
            raise ModelNotFoundError(
                f"There is no folder {folder.absolute()}. Load a model by its name with "
                f"flagai.load('embedding', {folder.name!r}); SentenceEmbedder takes its model and its tokenizer."
            )
        if dtype is None and read_device(device).type == "cpu":
            dtype = torch.float32
        model, tokenizer = read_one_version(
            folder,
            lambda: (
                BertForEmbedding.from_pretrained(folder, device=device, dtype=dtype, quantize=quantize),
                Tokenizer.from_folder(folder),
            ),
        )
        if compile:
            compile_blocks(model)
        return cls(model, tokenizer, max_length)

    def embed(self, texts: Sequence[str], *, normalize: bool = False) -> torch.Tensor:
        """Embed sentences.

        Args:
            texts: the sentences; what exceeds ``max_length`` is cut off.
            normalize: scale every vector to length 1.

        Shape:
            -> [len(texts), width], float32, on the CPU, in the order of the texts

        Raises:
            InputError: an element is not text, or of another language (with ``strict``).
            ConfigError: the folder asks for a pooling other than the mean, or for a prompt.
        """
        check_flag("normalize", normalize)
        if isinstance(texts, str):
            raise InputError("embed takes a list of sentences; put the single one into a list.")
        vectors = text_vectors(self.model, self.tokenizer, as_list(texts), self.max_length, strict=self.strict)
        return F.normalize(vectors, dim=-1) if normalize else vectors

    def embed_ids(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Embed sentences that are token ids already, special ones included, with a BERT; see :meth:`embed`.

        Raises:
            InputError: a text is empty or longer than the model's positions.
        """
        return packed_means(self.model, as_list(texts))

    def match(self, first: Sequence[str], second: Sequence[str]) -> torch.Tensor:
        """The cosine similarity of each pair of sentences, [len(first)].

        Raises:
            InputError: the sequences differ in length, or an element is not text.
        """
        first, second = as_list(first), as_list(second)
        if len(first) != len(second):
            raise InputError(f"match needs pairs, but got {len(first)} and {len(second)} sentences.")
        check_similarity(self.tokenizer.description.folder)
        vectors = self.embed([*first, *second], normalize=True)
        return (vectors[: len(first)] * vectors[len(first) :]).sum(-1)
