"""The defaults of the tasks that write, and what a model is given for a text: one place for all callers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flagai.data.prepare.poem import poem_prompt
from flagai.families.family import lowers_titles
from flagai.generation.keywords import SamplingOptions
from flagai.generation.options import RENAMED_TEXTS, with_new_names

if TYPE_CHECKING:
    from flagai.model.base_model import BaseModel


class CallOptions(SamplingOptions, total=False):
    """What a call of a text generation pipeline takes by keyword.

    Args:
        input_max_length: the number of tokens of a text that are read.
        out_max_length: FlagAI's name of ``max_new_tokens``.
        strict: of poetry: keep tones and rhymes (default), or only form and variety; see
            :class:`flagai.poetry.PoemRules`.
    """

    input_max_length: int | None
    out_max_length: int
    strict: bool


# Sums favour short titles: means gave GLM-mini-ch 0.358 ROUGE-L on held-out abstracts, and sums 0.347.
GENERATION: Mapping[str, CallOptions] = {
    "title-generation": {"out_max_length": 66, "num_beams": 4, "length_penalty": 1.0, "input_max_length": 512},
    "poetry": {
        "out_max_length": 80,
        "do_sample": True,
        "top_k": 0,
        "top_p": 0.8,
        "repetition_penalty": 1.0,  # the rules have a penalty of their own
        "truncation": False,
    },
    "writing": {
        "out_max_length": 100,
        "do_sample": True,
        "top_k": 20,
        "top_p": 0.8,
        "repetition_penalty": 1.5,
        "input_max_length": 512,
    },
    "lm": {},
    "seq2seq": {},
}
_SAMPLING = {"do_sample", "top_k", "top_p"}
_SEARCHING = {"num_beams", "length_penalty"}


def task_prompts(task: str, model: "BaseModel", texts: Any) -> Any:
    """What a model is given for a text of a task, or for each of a list.

    Args:
        task: the task.
        model: the model.
        texts: a text or a list of texts.
    """
    if isinstance(texts, list | tuple):
        return [task_prompts(task, model, text) for text in texts]
    if task == "poetry" and isinstance(texts, str):
        return poem_prompt(texts)
    lower = task == "title-generation" and lowers_titles(model)
    return texts.lower() if lower and isinstance(texts, str) else texts


def task_options(task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A task's defaults and a call's options, without the defaults of another strategy than the call's.

    Args:
        task: the task.
        given: the options.
    """
    given = with_new_names(given, RENAMED_TEXTS)
    contrastive, sampling = given.get("penalty_alpha") is not None, given.get("do_sample")
    dropped = _SEARCHING if contrastive or sampling else set()
    if contrastive or given.get("num_beams", 1) != 1 or sampling is False:
        dropped = dropped | _SAMPLING
    if "max_new_tokens" in given:
        dropped = dropped | {"out_max_length"}
    return {name: value for name, value in GENERATION[task].items() if name not in dropped} | given
