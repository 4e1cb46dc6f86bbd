"""``Predictor``: text in, answers out, with any model and its tokenizer."""

from collections.abc import Sequence
from typing import Any, Unpack, overload

import torch

from flagai.checks import check_integer
from flagai.data.prepare.labels import checked_labels
from flagai.errors import InputError
from flagai.generation.keywords import AdapterChoice
from flagai.model.predictor import encoder_heads as reading
from flagai.model.predictor.adapter_choice import takes_adapter
from flagai.model.predictor.arguments import as_list, is_pair, label_names, tell_of_pairs
from flagai.model.predictor.capabilities import probabilities, require, require_one_class
from flagai.model.predictor.embedding import text_vectors
from flagai.model.predictor.entities import check_types, entities_of, known_labels, own_class_names
from flagai.model.predictor.filling_methods import FillingMethods
from flagai.model.predictor.label_scoring import label_scores
from flagai.model.predictor.results import Classified, Entity
from flagai.model.predictor.vector_search import Hit

Text = str | Sequence[str]


class Predictor(FillingMethods):
    """Runs a model on texts.

    Every method takes one text or a list of texts, which then run as a batch; the answers to a batch are those to
    its texts alone. The methods that generate text are in ``generation_methods.py``.

    Args:
        model: a model; it is put into evaluation mode.
        tokenizer: its tokenizer.
        allow_untrained: whether a head that was randomly initialized, because the checkpoint has none, may answer
            before it is trained; else that is an error.
        memory: the most bytes of keys and values of a call that generates text; default a share of what is free.

    Raises:
        InputError: they are not a model and a tokenizer.

    Example:
        >>> Predictor(model, tokenizer).write("春江花月夜：七言绝句", do_sample=True, seed=1)
    """

    def __repr__(self) -> str:
        return f"Predictor({type(self.model).__name__}, {self.tokenizer!r})"

    @overload
    def predict_ner(
        self,
        text: str,
        target: Sequence[str] | None = ...,
        maxlen: int | None = ...,
        add_spatial_token: bool = ...,
        **choice: Unpack[AdapterChoice],
    ) -> list[Entity]: ...
    @overload
    def predict_ner(
        self,
        text: list[str],
        target: Sequence[str] | None = ...,
        maxlen: int | None = ...,
        add_spatial_token: bool = ...,
        **choice: Unpack[AdapterChoice],
    ) -> list[list[Entity]]: ...
    @takes_adapter
    def predict_ner(
        self,
        text: Any,
        target: Sequence[str] | None = None,
        maxlen: int | None = None,
        add_spatial_token: bool = True,
        **choice: Unpack[AdapterChoice],
    ) -> Any:
        """The entities of a text of any length; one that the model cannot read at once is read in windows that overlap.

        Args:
            text: a text or a list of texts.
            target: the names of the model's classes in order, such as ["O", "B-LOC", "I-LOC"], in any tagging scheme;
                for GlobalPointer the types, such as ["LOC", "ORG"]. Default: those that the configuration names.
            maxlen: how many tokens are read, [CLS] and [SEP] included; a warning names a text that is cut. Default all.
            add_spatial_token: ignored; [CLS] and [SEP] are always there, as in training.
            **choice: ``adapter``, as in :meth:`write`.

        Returns:
            The entities of each text in order.

        Raises:
            InputError: this model labels no tokens, or the labels do not fit it.
        """
        _, kind = self._require("predict_ner")
        target = known_labels(self.model) if target is None else target
        labels = checked_labels(target, self.model.config.class_num)
        if kind.entities == "spans":
            check_types(labels)
        texts = as_list(text)
        rows = reading.whole_rows(self.model, self.tokenizer, texts, maxlen)
        entities = entities_of(self.model, kind.entities, texts, rows, labels)
        return entities[0] if isinstance(text, str) else entities

    @overload
    def predict_cls_classifier(
        self,
        text: str | tuple[str, str],
        maxlen: int | None = ...,
        labels: Sequence[str] = ...,
        **choice: Unpack[AdapterChoice],
    ) -> int: ...
    @overload
    def predict_cls_classifier(
        self,
        text: list[tuple[str, str]] | list[list[str]],
        maxlen: int | None = ...,
        labels: Sequence[str] = ...,
        **choice: Unpack[AdapterChoice],
    ) -> list[int]: ...
    @overload
    def predict_cls_classifier(
        self,
        text: list[str],
        maxlen: int | None = ...,
        labels: Sequence[str] = ...,
        **choice: Unpack[AdapterChoice],
    ) -> int | list[int]: ...
    @takes_adapter
    def predict_cls_classifier(
        self, text: Any, maxlen: int | None = 512, labels: Sequence[str] = (), **choice: Unpack[AdapterChoice]
    ) -> Any:
        """The class of a text or a pair of texts.

        Args:
            text: a text, a pair [a, b], or a list of these. A list of exactly two texts is a pair, as in FlagAI, with
                a warning; write [[a], [b]] for a batch of two texts, and (a, b) for a pair.
            maxlen: how many tokens are read.
            labels: the names of the classes, which a language model (GPT-2, T5, GLM without a head) is asked for; for
                a classifier, which needs none, only their number is checked.
            **choice: ``adapter``, as in :meth:`write`.

        Returns:
            The number of the class, or a list of numbers.

        Raises:
            InputError: this model classifies nothing, its classes do not exclude each other (it has one output, or
                its ``problem_type`` says so), or a language model was given no labels.
        """
        self._require("predict_cls_classifier")
        require_one_class(self.model)
        single = isinstance(text, str) or is_pair(text)
        if single and isinstance(text, list):
            tell_of_pairs()
        classes = self.class_probabilities([text] if single else text, maxlen, labels).argmax(-1).tolist()
        return classes[0] if single else classes

    @overload
    def classify(
        self,
        texts: str | tuple[str, str],
        maxlen: int | None = ...,
        labels: Sequence[str] = ...,
        **choice: Unpack[AdapterChoice],
    ) -> Classified: ...
    @overload
    def classify(
        self,
        texts: list[str] | list[tuple[str, str]],
        maxlen: int | None = ...,
        labels: Sequence[str] = ...,
        **choice: Unpack[AdapterChoice],
    ) -> list[Classified]: ...
    @takes_adapter
    def classify(
        self, texts: Any, maxlen: int | None = 512, labels: Sequence[str] = (), **choice: Unpack[AdapterChoice]
    ) -> Any:
        """The class of each text by its name, with the scores of all classes.

        Args:
            texts: a text, a pair ``(first, second)``, or a list of these; a list of two texts is two texts.
            maxlen: how many tokens are read.
            labels: the names of the classes, for which a language model is asked. Default those of the configuration
                (``id2label``), or numbers.
            **choice: ``adapter``, as in :meth:`write`.

        Raises:
            InputError: this model classifies nothing, or a language model was given no labels.
        """
        single = isinstance(texts, str | tuple)
        rows = self.class_probabilities([texts] if single else texts, maxlen, labels).tolist()
        names = list(labels) or own_class_names(self.model) or [str(number) for number in range(len((rows or [()])[0]))]
        found = [Classified.of(dict(zip(names, row, strict=True))) for row in rows]
        return found[0] if single else found

    @takes_adapter
    def class_probabilities(
        self,
        texts: Sequence[Text],
        maxlen: int | None = 512,
        labels: Sequence[str] = (),
        **choice: Unpack[AdapterChoice],
    ) -> torch.Tensor:
        """How probable each class of each text is, [N, classes], float32 on the CPU.

        Where classes exclude each other, the numbers of a text add up to 1. Where the configuration says
        ``multi_label_classification``, and where there is one output only, each is a probability by itself; those of a
        ``regression`` are the outputs.

        Args:
            texts: a list; each entry a text, [text] or a pair [a, b].
            maxlen: how many tokens are read.
            labels: as in :meth:`predict_cls_classifier`.
            **choice: ``adapter``, as in :meth:`write`.

        Raises:
            InputError: as in :meth:`predict_cls_classifier`.
        """
        self._require("predict_cls_classifier")
        if isinstance(texts, str):
            raise InputError("class_probabilities takes a list of texts or pairs; put the single text into a list.")
        entries = [
            entry[0] if isinstance(entry, list | tuple) and len(entry) == 1 else entry for entry in as_list(texts)
        ]
        classes = self.model.config.get("class_num") if self.model.needs_classes else None
        labels = label_names(labels, classes)
        if not entries:
            return torch.empty(0, classes or len(labels))
        if self.model.needs_classes:
            scores = reading.class_logits(self.model, self.tokenizer, entries, maxlen)
        else:
            scores = label_scores(self.model, self.tokenizer, entries, labels, maxlen)
        return probabilities(self.model, scores)

    @takes_adapter
    def rerank(
        self, query: str, texts: Sequence[str], top_k: int | None = None, maxlen: int | None = 512,
        **choice: Unpack[AdapterChoice],
    ) -> list[Hit]:  # fmt: skip
        """Put texts into the order in which they suit a query, by a model that reads pairs (a cross-encoder).

        Args:
            query: what is asked.
            texts: the texts.
            top_k: how many to return; default all.
            maxlen: how many tokens of a pair are read.
            **choice: ``adapter``, as in :meth:`write`.

        Returns:
            The texts, the best first; the score is the probability of the last class, or a regression's number.

        Raises:
            InputError: as in :meth:`class_probabilities`, or the model has more than two classes.
        """
        self._require("predict_cls_classifier")
        classes = self.model.config.get("class_num")
        if not self.model.needs_classes or classes not in (1, 2):
            raise InputError(
                f"rerank needs a model that reads pairs, with one or two classes; {type(self.model).__name__} has "
                f"{classes or 'no'} classes. Compare embeddings instead: SentenceEmbedder.search."
            )
        scores = self.class_probabilities([[query, text] for text in as_list(texts)], maxlen)
        best = [row[-1] for row in scores.tolist()]
        order = sorted(range(len(best)), key=lambda place: -best[place])
        found = order if top_k is None else order[: check_integer("top_k", top_k)]
        return [Hit(place, best[place], texts[place]) for place in found]

    @takes_adapter
    def predict_embedding(
        self, text: str | Sequence[str], maxlen: int | None = 256, **choice: Unpack[AdapterChoice]
    ) -> torch.Tensor:
        """The meaning of a text as a vector: its tokens' last hidden states, pooled as the model's folder says.

        By default that is the mean, special tokens included.

        Args:
            text: a text or a list of texts.
            maxlen: how many tokens are read.
            **choice: ``adapter``, as in :meth:`write`.

        Shape:
            -> [width], or [N, width] for a list; float32 on the CPU
        """
        require(self.model, "predict_embedding")
        vectors = text_vectors(self.model, self.tokenizer, as_list(text), maxlen)
        return vectors[0] if isinstance(text, str) else vectors
