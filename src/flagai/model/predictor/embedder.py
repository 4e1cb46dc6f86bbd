"""Sentence embeddings and the similarity of sentences."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.nn import functional as F

from flagai.checkpoint.steady import read_one_version
from flagai.checks import check_flag, check_integer, check_path
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError, ModelNotFoundError
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import BertForEmbedding
from flagai.model.block.compile import compile_blocks
from flagai.model.device import Device, Dtype, read_device
from flagai.model.predictor.arguments import as_list, check_parts
from flagai.model.predictor.embedding import packed_means, text_vectors
from flagai.model.predictor.sentence_folder import SentenceSettings
from flagai.model.predictor.vector_search import INDEXES, Hit, nearest, nearest_by_index
from flagai.resolve import resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy import typing as npt

# Texts of a corpus whose vectors are in memory at a time.
_BLOCK = 16384


class SentenceEmbedder:
    """Embeds sentences by the pooling, modules and prompts of the model's folder; by default by mean pooling.

    Args:
        model: a BERT, or another model that the Predictor can embed with.
        tokenizer: its tokenizer.
        max_length: tokens of a text that are read, special ones included; default the folder's ``max_seq_length``.
        strict: whether a text of another language, of which the vocabulary lacks most words, is an error, no warning.

    Raises:
        InputError: there is no model or no tokenizer.

    Example:
        >>> SentenceEmbedder.from_pretrained("all-MiniLM-L6-v2").embed(["A man plays a guitar.", "The sky is blue."])
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
    def from_pretrained(
        cls,
        name: str | Path,
        download_path: str | Path | None = None,
        *,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Load a BERT for embedding by its name, and fetch it first if it is not here.

        Args:
            name: a name of the catalog, a folder, or a repository such as "owner/name", "hf:owner/name@revision" or
                "modelscope:owner/name".
            download_path: the model directory; default ``FLAGAI_HOME``, or else ``./checkpoints``.
            revision: the commit, branch or tag of a repository.
            **options: see :meth:`from_folder`.

        Raises:
            ModelNotFoundError: there is no such folder, and the catalog has no such name.
            HubError: the model is not here and cannot be fetched.
            FlagAIError: see :meth:`from_folder`.

        Example:
            >>> SentenceEmbedder.from_pretrained("BAAI/bge-small-zh-v1.5").encode(["你好"])
        """
        place, name = (download_path, name) if download_path is not None else (name, "")
        return cls.from_folder(resolve(place, name, revision=revision).folder, **options)

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
            device: where the model is placed.
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
                f"SentenceEmbedder.from_pretrained({folder.name!r})."
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

    def embed(
        self,
        texts: Sequence[str],
        *,
        normalize: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> torch.Tensor:
        """Embed sentences.

        Args:
            texts: the sentences; what exceeds ``max_length`` is cut off.
            normalize: scale every vector to length 1, also where the folder does not.
            prompt_name: the name of the folder's prompt that stands before every text, such as "query"; default the
                folder's default.
            prompt: the prompt itself; "" for none.

        Shape:
            -> [len(texts), width], float32, on the CPU, in the order of the texts

        Raises:
            InputError: an element is not text, or of another language (with ``strict``), or there is no such prompt.
            ConfigError: the folder asks for a pooling, a module or an activation that is not supported.
        """
        check_flag("normalize", normalize)
        if isinstance(texts, str):
            raise InputError("embed takes a list of sentences; put the single one into a list.")
        vectors = text_vectors(
            self.model,
            self.tokenizer,
            as_list(texts),
            self.max_length,
            strict=self.strict,
            prompt_name=prompt_name,
            prompt=prompt,
        )
        return F.normalize(vectors, dim=-1) if normalize else vectors

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> "npt.NDArray[np.float32] | torch.Tensor | list[torch.Tensor]":
        """Embed sentences under the names of sentence-transformers' arguments.

        Args:
            sentences: a text or a list of texts.
            prompt_name: see :meth:`embed`.
            prompt: see :meth:`embed`.
            batch_size: the most texts whose vectors are made at a time; default as many as run fast.
            convert_to_numpy: return an array; else a list of tensors.
            convert_to_tensor: return a tensor, whatever ``convert_to_numpy`` says.
            normalize_embeddings: scale every vector to length 1, after it has been cut.
            truncate_dim: keep so many numbers of each vector.

        Shape:
            -> [width] for a text, [N, width] for a list, on the CPU

        Raises:
            InputError: see :meth:`embed`.
        """
        texts = [sentences] if isinstance(sentences, str) else as_list(sentences)
        size = max(len(texts), 1) if batch_size is None else check_integer("batch_size", batch_size)
        parts = [texts[begin : begin + size] for begin in range(0, len(texts), size)] or [[]]
        vectors = torch.cat([self.embed(part, prompt_name=prompt_name, prompt=prompt) for part in parts])
        vectors = vectors if truncate_dim is None else vectors[:, : check_integer("truncate_dim", truncate_dim)]
        vectors = F.normalize(vectors, dim=-1) if normalize_embeddings else vectors
        found = vectors[0] if isinstance(sentences, str) else vectors
        if convert_to_tensor:
            return found
        return found.numpy() if convert_to_numpy else list(vectors) if found is vectors else found

    def search(
        self,
        queries: str | Sequence[str],
        corpus: "Sequence[str] | torch.Tensor | npt.NDArray[np.float32]",
        top_k: int = 10,
        *,
        index: str = "exact",
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """The texts of a corpus that are most similar to queries; a block of the corpus is in memory at a time.

        Args:
            queries: a text or a list of texts.
            corpus: the texts, or their vectors, [N, width]: a tensor, or an array as :meth:`encode` returns it.
            top_k: how many of them for each query.
            index: "exact", or "usearch" for an approximate index (the extra ``search``).
            query_prompt: the name of the queries' prompt; default "query", if the folder has one, or the default one.
            corpus_prompt: the same for the texts: "document" or "passage".

        Returns:
            For each query the texts found, the best first; one such list for a single query.

        Raises:
            InputError: there is no such index or prompt, or the vectors have another size.

        Example:
            >>> embedder.search("who sings?", ["A man sings.", "The sky is blue."], top_k=1)
            [Hit(place=0, score=0.61; text='A man sings.')]
        """
        if index not in INDEXES:
            raise InputError(f"There is no index {index!r:.80}. Known: {', '.join(INDEXES)}.")
        asked = [queries] if isinstance(queries, str) else as_list(queries)
        of_queries = self._normal(asked, self._prompt_name(query_prompt, "query"))
        corpus = torch.as_tensor(corpus) if hasattr(corpus, "__array__") else corpus
        if isinstance(corpus, torch.Tensor):
            blocks = (self._comparable(block) for block in corpus.split(_BLOCK))
        else:
            name = self._prompt_name(corpus_prompt, "document", "passage")
            texts = as_list(corpus)
            blocks = (self._normal(texts[begin : begin + _BLOCK], name) for begin in range(0, len(texts), _BLOCK))
        find = nearest if index == "exact" else nearest_by_index
        scores, places = find(of_queries, blocks, top_k)
        known = [] if isinstance(corpus, torch.Tensor) else corpus
        found = [
            [Hit(place, score, known[place] if known else "") for place, score in zip(*row, strict=True)]
            for row in zip(places.tolist(), scores.tolist(), strict=True)
        ]
        return found[0] if isinstance(queries, str) else found

    def _prompt_name(self, given: str | None, *usual: str) -> str | None:
        """The name of a prompt: the one that was given, or a usual one that the folder has."""
        known = self.settings.prompts
        return given if given is not None else next((name for name in usual if name in known), None)

    def _normal(self, texts: Sequence[str], prompt_name: str | None) -> torch.Tensor:
        return self._comparable(self.embed(texts, prompt_name=prompt_name))

    def _comparable(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors whose products are the similarity that the folder asks for."""
        return F.normalize(vectors, dim=-1) if self.settings.similarity == "cosine" else vectors

    @property
    def settings(self) -> SentenceSettings:
        """What the folder says."""
        return SentenceSettings.read(self.tokenizer.description.folder)

    def embed_ids(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """The embeddings [N, width] of texts that are token ids, special ones included, from a BERT.

        Raises:
            InputError: a text is empty or longer than the model's positions.
        """
        return packed_means(self.model, as_list(texts), self.settings.pooling)

    def match(self, first: Sequence[str], second: Sequence[str]) -> torch.Tensor:
        """The similarity of each pair of a first and a second sentence, [N]: the cosine, or the folder's own measure.

        Raises:
            InputError: the sequences differ in length, or an element is not text.
        """
        first, second = as_list(first), as_list(second)
        if len(first) != len(second):
            raise InputError(f"match needs pairs, but got {len(first)} and {len(second)} sentences.")
        vectors = self._comparable(self.embed([*first, *second]))
        return (vectors[: len(first)] * vectors[len(first) :]).sum(-1)
