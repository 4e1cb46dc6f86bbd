"""``evaluate``: a task, a model and labelled data in, measures out."""

from collections.abc import Mapping
from pathlib import Path

from flagai.catalog.tasks import task_named
from flagai.checks import check_integer
from flagai.errors import InputError
from flagai.evaluation.results import Evaluation
from flagai.evaluation.tasks import EVALUATORS
from flagai.loading import load
from flagai.train.records import Data, read_records


def evaluate(
    task: str,
    model: str | Path,
    data: Data,
    *,
    model_dir: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    device: str | None = None,
    max_length: int | None = None,
) -> Evaluation:
    """Measure a model on labelled data, with the metrics of the task.

    Entities: precision, recall and F1 over whole entities, as seqeval. Classes: accuracy and macro F1, as scikit-learn.
    Matching: as classes, or for a model that gives numbers the correlations of Spearman and Pearson, and the area under
    the ROC curve where the data has two labels. Titles: ROUGE-1, -2 and -L, of characters where the data's title has
    Chinese or Japanese ones (as rouge-chinese), else of words (as rouge-score). Texts to continue, poems and masked
    texts: loss and perplexity a token.

    Args:
        task: "ner", "ner-crf", "ner-gp", "classification", "semantic-matching", "title-generation", "poetry",
            "masklm", "writing" or "lm".
        model: a model's name, folder or repository.
        data: the data; see :func:`flagai.train.records.read_records`.
        model_dir: the model directory.
        columns: which columns of the file stand for those that the task asks for.
        device: where to run; default the best device there is.
        max_length: how many tokens of a text are read; default all (entities), else 512.

    Returns:
        Metrics, the scores of each class, a confusion matrix and the mistakes, as the task has them.

    Raises:
        InputError: the task has no evaluation, or the data or the model does not fit it.
        FlagAIError: the model cannot be loaded.

    Example:
        >>> evaluate("ner", "mine", "test.conll").metrics["f1"]
    """
    task = task_named(task)
    if task not in EVALUATORS:
        raise InputError(f"There is no evaluation of {task!r}. Known: {', '.join(EVALUATORS)}.")
    if max_length is not None:
        check_integer("max_length", max_length, 8)
    records = read_records(data, columns)
    run = load(task, str(model), download_path=model_dir, device=device)
    name = str(data) if isinstance(data, str | Path) else "a data set"
    found = EVALUATORS[task](run, records, max_length)
    return Evaluation(
        task, str(model), name, len(records), found.metrics, found.classes, found.confusion, found.mistakes
    )
