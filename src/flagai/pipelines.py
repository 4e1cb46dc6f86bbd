"""What ``flagai.load`` returns: a model that is called with texts, with the task's defaults."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Unpack, overload

from flagai.data.prepare.poem import PoemForm
from flagai.errors import InputError
from flagai.generation.keywords import SamplingOptions
from flagai.model.predictor.adapter_choice import takes_adapter
from flagai.model.predictor.results import Classified, Entity, Filled, Similarity, Written, WrittenText
from flagai.task_defaults import GENERATION, CallOptions, task_options, task_prompts

if TYPE_CHECKING:
    import torch

    from flagai.data.tokenizer import Tokenizer
    from flagai.model.base_model import BaseModel
    from flagai.model.predictor.embedder import SentenceEmbedder
    from flagai.poetry import PoemRules

Pair = tuple[str, str]
# FlagAI's named-entity model, whose configuration does not name its classes.
NER_LABELS = ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")


class LoadedModel(Protocol):
    """What a pipeline takes: an ``AutoLoader``, or a model that is loaded already."""

    @property
    def task_name(self) -> str:
        """The task for which it was loaded."""

    def get_model(self) -> "BaseModel":
        """The model."""

    def get_tokenizer(self) -> "Tokenizer":
        """Its tokenizer."""


class TaskPipeline:
    """A model, by its name and its loader, for a task: a call gives the answer to a text, or those to a list."""

    def __init__(self, task: str, name: str, loader: LoadedModel) -> None:
        from flagai.model.predictor.predictor import Predictor

        self.task, self.name, self.loaded_for = task, name, loader.task_name
        self.model: BaseModel = loader.get_model()
        self.tokenizer: Tokenizer = loader.get_tokenizer()
        self.predictor: Predictor = Predictor(self.model, self.tokenizer)
        self._rules: dict[tuple[bool, PoemForm | None], PoemRules] = {}

    @cached_property
    def embedder(self) -> "SentenceEmbedder":
        """Embeds texts with this model; a text of a language that the model does not know is an error."""
        from flagai.model.predictor.embedder import SentenceEmbedder

        return SentenceEmbedder(self.model, self.tokenizer, strict=True)

    def __call__(self, *_: Any, **__: Any) -> Any:
        """The answer to a text, or those to a list; each task's takes ``adapter``, as ``Predictor.write`` does."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task!r}: {self.name}, {type(self.model).__name__}, {self.model.device}>"


class TextGenerationPipeline(TaskPipeline):
    """Writes: titles for texts, poems for titles, continuations."""

    @overload
    def __call__(self, texts: str, **options: Unpack[CallOptions]) -> WrittenText: ...
    @overload
    def __call__(self, texts: list[str], **options: Unpack[CallOptions]) -> list[WrittenText]: ...
    @overload
    def __call__(self, texts: str, *, num_return_sequences: int, **options: Unpack[CallOptions]) -> "list[Written]": ...
    @overload
    def __call__(
        self, texts: list[str], *, num_return_sequences: int, **options: Unpack[CallOptions]
    ) -> "list[list[Written]]": ...
    def __call__(self, texts: str | list[str], **options: Any) -> Any:
        """Generate text.

        Args:
            texts: a text or a list of texts; for poetry a title, or "title：form", see :func:`poem_prompt`.
            **options: see :class:`flagai.generation.keywords.GenerationOptions`; the defaults are the task's.

        Returns:
            The text without the prompt, a ``WrittenText``; with ``num_return_sequences`` a list of ``Written``.

        Raises:
            InputError: an option is impossible.
        """
        single = isinstance(texts, str)
        prompts, asked = self.asked([texts] if isinstance(texts, str) else texts, options)
        chosen: dict[str, Any] = {**asked}
        several = "num_return_sequences" in chosen
        rows: Any = self.predictor.write(prompts, **{"num_return_sequences": 1} | chosen)
        answers = [[replace(best, text=best.written) for best in row] for row in rows]
        found = answers if several else [WrittenText.of(best) for best, *_ in answers]
        return found[0] if single else found

    def stream(self, text: str, **options: Unpack[CallOptions]) -> Iterator[str]:
        """The pieces of a text as they are generated.

        Args:
            text: one text.
            **options: as in a call.
        """
        (prompt,), asked = self.asked([text], options)
        chosen: dict[str, Any] = {**asked}
        return self.predictor.stream(prompt, **chosen)

    def asked(self, texts: Sequence[str], options: Mapping[str, object]) -> tuple[list[str], dict[str, object]]:
        """What ``Predictor.write`` takes for texts: prompts, and options with the task's defaults and rules.

        Args:
            texts: a list of texts.
            options: as in a call.
        """
        prompts: list[str] = task_prompts(self.task, self.model, texts)
        chosen: dict[str, Any] = task_options(self.task, options)
        if self.task == "poetry":
            own = chosen.get("logits_processors", ())
            rules = self.rules(prompts, strict=chosen.pop("strict", True))
            # What is not a list of functions is refused by `write`.
            chosen["logits_processors"] = [*own, rules] if isinstance(own, list | tuple) else own
        return prompts, chosen

    def rules(self, prompts: Sequence[str], *, strict: bool = True) -> "PoemRules":
        """The rules of poems for this model: one object for all calls, whose texts then run together.

        Args:
            prompts: "title：form" each.
            strict: with tones and rhymes.

        Raises:
            InputError: the model keeps its prompts in an encoder, and they name several forms.
        """
        from flagai.poetry import PoemRules, common_form

        form = common_form(self.model, prompts)
        if (strict, form) not in self._rules:
            self._rules[strict, form] = PoemRules(self.model, self.tokenizer, strict=strict, form=form)
        return self._rules[strict, form]


class FillPipeline(TaskPipeline):
    """Fills [MASK], and for GLM [sMASK] and [gMASK]."""

    @overload
    def __call__(self, texts: str, **options: Unpack[SamplingOptions]) -> "list[Filled]": ...
    @overload
    def __call__(self, texts: list[str], **options: Unpack[SamplingOptions]) -> "list[list[Filled]]": ...
    def __call__(self, texts: Any, **options: Any) -> Any:
        """Fill the blanks of texts; see :meth:`flagai.model.predictor.predictor.Predictor.fill_blanks`."""
        return self.predictor.fill_blanks(texts, **options)


class EntityPipeline(TaskPipeline):
    """Finds named entities."""

    @overload
    def __call__(self, texts: str, labels: Sequence[str] | None = ..., maxlen: int | None = ...) -> "list[Entity]": ...
    @overload
    def __call__(
        self, texts: list[str], labels: Sequence[str] | None = ..., maxlen: int | None = ...
    ) -> "list[list[Entity]]": ...
    @takes_adapter
    def __call__(self, texts: Any, labels: Sequence[str] | None = None, maxlen: int | None = None) -> Any:
        """The entities of texts.

        Args:
            texts: a text or a list of texts, of any length.
            labels: the names of the classes; default those of the configuration.
            maxlen: how many tokens of a text are read; default all.
        """
        return self.predictor.predict_ner(texts, default_tags(self.model) if labels is None else labels, maxlen)


class ClassificationPipeline(TaskPipeline):
    """Tells the class of a text or a pair of texts."""

    @overload
    def __call__(self, texts: str | Pair, labels: Sequence[str] = ..., maxlen: int | None = ...) -> "Classified": ...
    @overload
    def __call__(
        self, texts: list[str] | list[Pair], labels: Sequence[str] = ..., maxlen: int | None = ...
    ) -> "list[Classified]": ...
    @takes_adapter
    def __call__(self, texts: Any, labels: Sequence[str] = (), maxlen: int | None = 512) -> Any:
        """The class of each text, by its name, with the scores of all: ``Predictor.classify``."""
        return self.predictor.classify(texts, maxlen, labels)


class EmbeddingPipeline(TaskPipeline):
    """Turns texts into vectors."""

    @takes_adapter
    def __call__(self, texts: str | Sequence[str], *, normalize: bool = False) -> "torch.Tensor":
        """The vectors of texts, pooled as the model's folder says; by default the mean of the last hidden states.

        Args:
            texts: a text or a list of texts.
            normalize: scale every vector to length 1.

        Shape:
            -> [width], or [N, width] for a list; float32 on the CPU
        """
        vectors = self.embedder.embed([texts] if isinstance(texts, str) else texts, normalize=normalize)
        return vectors[0] if isinstance(texts, str) else vectors


class MatchingPipeline(TaskPipeline):
    """Tells how similar two texts are.

    With a model that was fine-tuned for it, the probability that they mean the same (or a regression's number); with
    any other model, the cosine of their embeddings.
    """

    @overload
    def __call__(self, pairs: Pair) -> Similarity: ...
    @overload
    def __call__(self, pairs: list[Pair]) -> list[Similarity]: ...
    @takes_adapter
    def __call__(self, pairs: Any) -> Any:
        """The similarity of each pair.

        Args:
            pairs: a pair ``(first, second)``, or a list of pairs.

        Raises:
            InputError: the model's classes are others.
        """
        from flagai.model.predictor.arguments import is_pair

        found = [pairs] if isinstance(pairs, tuple) else list(pairs)
        if not all(map(is_pair, found)):
            raise InputError(f"Expected a pair of texts (first, second), or a list of pairs, but found {pairs!r:.80}.")
        if self.loaded_for == "semantic-matching":
            if (classes := self.model.config.class_num) > 2:
                raise InputError(f"{self.name} has {classes} classes, not whether two texts mean the same.")
            scores = [row[-1] for row in self.predictor.class_probabilities(found).tolist()]
            measure = "regression" if self.model.config.get("problem_type") == "regression" else "probability"
        else:
            first, second = ([pair[side] for pair in found] for side in (0, 1))
            scores, measure = self.embedder.match(first, second).tolist(), self.embedder.settings.similarity
        answers = [Similarity(score, measure) for score in scores]
        return answers[0] if isinstance(pairs, tuple) else answers


def default_tags(model: "BaseModel") -> list[str] | None:
    """The labels of FlagAI's own model, whose configuration names none; None for those of the configuration."""
    unnamed = not model.config.get("id2label") and model.config.class_num == len(NER_LABELS)
    return list(NER_LABELS) if unnamed else None


PIPELINES: Mapping[str, type[TaskPipeline]] = {
    **dict.fromkeys(GENERATION, TextGenerationPipeline),
    "masklm": FillPipeline,
    **dict.fromkeys(("ner", "ner-crf", "ner-gp"), EntityPipeline),
    "classification": ClassificationPipeline,
    "embedding": EmbeddingPipeline,
    "semantic-matching": MatchingPipeline,
}
