"""The models of a server: which tasks each does, and one pipeline for each of these."""

import copy
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from flagai.auto_model.lookup import class_names_by_family, split_name
from flagai.auto_model.registry import find_class
from flagai.catalog.catalog import find, tasks_of
from flagai.catalog.tasks import ALIASES, TASKS, task_named
from flagai.checkpoint.reader import open_checkpoint
from flagai.errors import InputError, ModelNotFoundError
from flagai.families.family import family_and_row, family_named
from flagai.loading import load
from flagai.model.layer.adapted import BASE
from flagai.model.predictor.capabilities import require
from flagai.model.predictor.entities import own_class_names
from flagai.model.predictor.sentence_folder import SentenceSettings
from flagai.pipelines import PIPELINES, TaskPipeline, TextGenerationPipeline
from flagai.resolve import CONFIG_FILE, resolve
from flagai.serve.log_probabilities import LogProbabilities
from flagai.serve.work import WorkSpec
from flagai.typed_json import read_json

logger = logging.getLogger(__name__)

# Tasks whose answers a scheduler writes, one token after the other.
WRITING = ("lm", "writing", "seq2seq", "title-generation", "poetry")
_NER = ("ner", "ner-crf", "ner-gp")
# What a model that was pretrained, not fine-tuned, does besides its card's tasks, where its classes can: an encoder,
# and a language model, which embeds only if it is asked for that.
_ENCODES = ("masklm", "embedding", "semantic-matching")
_SPEAKS = ("lm", "masklm", "classification")
# The Predictor's method for tasks; the others write.
_METHODS = {
    "masklm": "fill_blanks",
    **dict.fromkeys(_NER, "predict_ner"),
    "classification": "predict_cls_classifier",
    "semantic-matching": "predict_cls_classifier",
    "embedding": "predict_embedding",
}


class ServedModel:
    """A model of a server.

    Args:
        argument: its name or folder, as on the command line; ``NAME:TASK,TASK`` for these tasks alone.
        home: the model directory.
        **place: ``device``, ``dtype``, ``quantize``, ``mesh`` and ``adapter`` of :func:`flagai.load`.

    Raises:
        FlagAIError: it cannot be loaded, or does not do a task.
    """

    def __init__(self, argument: str, home: Path | None, **place: Any) -> None:
        name, tasks = _split(argument)
        asked = tasks or _tasks_of(name, home)
        first = load(asked[0], name, download_path=home, **place)
        self.name = Path(name).name if Path(name).is_dir() else name
        self.adapter: str | None = None  # which computes what is asked of it, and the name of its model
        self.parent: str | None = None
        self.model = first.model
        self.tokenizer = first.tokenizer
        found = {task: self._pipeline(task, first) for task in asked}
        self.pipelines = {task: pipeline for task, pipeline in found.items() if pipeline is not None}
        missing = [task for task in tasks or asked[:1] if task not in self.pipelines]
        if missing:
            raise InputError(
                f"{name}, loaded for {asked[0]!r} as a {type(first.model).__name__}, cannot do {', '.join(missing)}. "
                "Serve another model, or this one for other tasks: MODEL:TASK,TASK."
            )

    def adapted(self) -> "list[ServedModel]":
        """The same model with each of its adapters, under their names."""
        found = []
        for name in self.model.adapter_names:
            found.append(copy.copy(self))
            found[-1].name = found[-1].adapter = name
            found[-1].parent = self.name
        return found

    def options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options of a task's pipeline, and the adapter."""
        return {**given, "adapter": self.adapter or BASE} if self.model.adapter_names else given

    def _pipeline(self, task: str, first: TaskPipeline) -> TaskPipeline | None:
        """A pipeline for a task that shares the weights of the first one; None if they cannot do it."""
        if task == first.task and first.loaded_for == task:
            return first if _can(first.model, task) else None
        family, row = family_and_row(first.model)
        headless = row is None or row.head is None or task not in row.tasks
        loaded_for = {"semantic-matching": "embedding", "classification": "lm"}.get(task, task) if headless else task
        if loaded_for == "semantic-matching" and first.model.config.get("class_num", 2) > 2:
            return None
        wanted = "" if family is None else class_names_by_family(loaded_for).get(family.name, "")
        for model in (first.model, first.model.backbone):
            fits = type(model).__name__ == wanted or loaded_for == "embedding"
            if fits and _can(model, loaded_for if loaded_for == "embedding" else task):
                return PIPELINES[task](task, self.name, _Loaded(loaded_for, model, first.tokenizer))
        return None

    @cached_property
    def language(self) -> str | None:
        """The language of its texts, "zh" or "en", if its card says so."""
        with suppress(ModelNotFoundError):
            return find(self.name).language
        return None

    @property
    def writing_task(self) -> str | None:
        """The task of plain continuations."""
        return next((task for task in WRITING[:3] if task in self.pipelines), None)

    @property
    def ner_task(self) -> str | None:
        """The task of its head for entities."""
        return next((task for task in _NER if task in self.pipelines), None)

    @property
    def generates(self) -> bool:
        """Whether a scheduler answers some of its tasks."""
        family, row = family_and_row(self.model)
        return family is not None and row is not None and "write" in row.methods and family.decoding is not None

    @property
    def blanks(self) -> str | None:
        """How it fills blanks: one "tokens" each, or by writing."""
        family, _ = family_and_row(self.model)
        return None if family is None or "masklm" not in self.pipelines else family.blanks

    @cached_property
    def max_tokens(self) -> int | None:
        """How many tokens of a text it reads."""
        return self.model.max_positions

    @cached_property
    def max_sentence_tokens(self) -> int | None:
        """How many tokens of a sentence it embeds."""
        said = SentenceSettings.read(self.tokenizer.description.folder).max_length
        known = [number for number in (said, self.model.backbone.max_positions) if number is not None]
        return min(known, default=None)

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes of its head; none for a language model."""
        return own_class_names(self.model) if self.classifies or self.ner_task else []

    def count(self, entries: Sequence[Any]) -> list[int]:
        """The tokens of texts or pairs, special ones included."""
        texts = [" ".join(entry) if isinstance(entry, list | tuple) else entry for entry in entries]
        return [len(ids) + 2 for ids in self.tokenizer.encode_many(texts)]

    @property
    def classifies(self) -> bool:
        """Whether it has a head with classes of its own."""
        return "classification" in self.pipelines and self.pipelines["classification"].loaded_for != "lm"

    @cached_property
    def can_chat(self) -> bool:
        """Whether it was trained to chat, or its folder has a template for it."""
        if self.writing_task is None:
            return False
        try:
            return bool(self.pipelines[self.writing_task].predictor.chat_format)
        except InputError as error:
            logger.debug("%s does not chat: %s", self.name, error)
            return False

    def build(self, spec: WorkSpec) -> list[Any]:
        """What the scheduler takes for work."""
        if spec.task == "chat":
            options: dict[str, Any] = dict(spec.options)
            predictor = self.pipelines[str(self.writing_task)].predictor
            tools = options.pop("tools", None)
            return [*predictor.chat_requests([list(each) for each in spec.entries], tools, **options)]
        pipeline = self.pipelines[spec.task]
        entries: list[str] = list(spec.entries)
        if not isinstance(pipeline, TextGenerationPipeline):
            return [*pipeline.predictor.blank_requests(entries, **spec.options)]
        prompts, given = pipeline.asked(entries, spec.options)
        options = {**given}
        if spec.candidates is None:
            return [*pipeline.predictor.requests(prompts, **options)]
        seeds = options.pop("seeds", None)
        asked: list[Any] = []
        for number, text in enumerate(prompts):  # each notes log-probabilities of its own
            own: dict[str, Any] = {"logits_processors": [LogProbabilities(spec.candidates)]}
            own |= {} if seeds is None else {"seeds": [seeds[number]]}
            asked += pipeline.predictor.requests([text], **options, **own)
        return asked

    def call(self, task: str, options: Mapping[str, Any], entries: Sequence[Any]) -> list[Any]:
        """The results of entries, one each; vectors are arrays of float32."""
        found = self.pipelines[task](list(entries), **options)
        return list(found.numpy()) if isinstance(found, torch.Tensor) else list(found)


@dataclass(frozen=True)
class _Loaded:
    """A model that is loaded already, as a pipeline takes it."""

    task_name: str
    model: Any
    tokenizer: Any

    def get_model(self) -> Any:
        """See :class:`flagai.pipelines.LoadedModel`."""
        return self.model

    def get_tokenizer(self) -> Any:
        """See :class:`flagai.pipelines.LoadedModel`."""
        return self.tokenizer


def _split(argument: str) -> tuple[str, list[str]]:
    """A model's name, and the tasks that follow it after a colon."""
    name, colon, tasks = argument.rpartition(":")
    named = [task.strip().lower() for task in tasks.split(",")]
    if not colon or not all(task in TASKS or task in ALIASES for task in named):
        return argument, []
    return name, [task_named(task) for task in named]


def _can(model: Any, task: str) -> bool:
    """Whether a model's class has the method for a task, and no head of it is randomly initialized."""
    subject = model.backbone if task == "embedding" else model
    try:
        require(subject, _METHODS.get(task, "write"), allow_untrained=False)
    except InputError:
        return False
    return True


def _tasks_of(name: str, home: Path | None) -> list[str]:
    """What a model does: by its card, or by the head that its folder holds."""
    try:
        card = find(Path(name).name if Path(name).is_dir() else name)
    except ModelNotFoundError:
        folder = resolve(*split_name(home, name)).folder  # of a repository, the weights are fetched here
        kind, _ = find_class(read_json(folder / CONFIG_FILE), open_checkpoint(folder))
        row = family_named(kind.config_class.family).by_name[kind.__name__]
        if row.head is not None:
            return sorted(row.tasks)
        # A class that continues texts may have been trained for any of its tasks: which, only the caller knows.
        return _with_pretrained(() if "lm" in row.tasks else row.tasks, kind.config_class.family)
    tasks = tasks_of(card)
    return list(tasks) if card.base is not None else _with_pretrained(tasks, card.family)


def _with_pretrained(tasks: Sequence[str], family: str) -> list[str]:
    """Tasks, and those of a model that was pretrained; the class of the first one has all its weights."""
    own = [task for task in tasks if task not in (*_NER, "lm")]
    return list(dict.fromkeys([*own, *(_ENCODES if family == "bert" else _SPEAKS)]))
