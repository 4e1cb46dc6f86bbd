"""Language models as classifiers: the class is the one whose name the model finds most probable.

Source: Schick and Schuetze 2021, "Exploiting Cloze Questions for Few Shot Text Classification" (verbalisers).
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from flagai.data.prepare.batch import checked_pairs
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError
from flagai.families.family import IGNORED, LabelIds, family_and_row
from flagai.model.base_model import BaseModel
from flagai.model.predictor.arguments import read_length


@torch.inference_mode()
def label_scores(
    model: BaseModel,
    tokenizer: Tokenizer,
    texts: Sequence[str | Sequence[str]],
    labels: Sequence[str],
    max_length: int | None,
) -> torch.Tensor:
    """The log-probability of each label as the answer to each text, [N, labels].

    Texts or pairs may have a mask where a GLM puts the label; default at the end.

    Raises:
        InputError: there are no labels, or the vocabulary does not know one, or does not tell two apart.
    """
    family, _ = family_and_row(model)
    if family is None or family.label_batch is None:
        raise InputError(f"A {type(model).__name__} cannot score labels.")
    if not labels:
        raise InputError("A language model classifies by the names of the classes: give labels=['good', 'bad'].")
    ids = _known_ids(tokenizer, labels)
    max_length = read_length("maxlen", max_length, model)
    found = []
    for pair in checked_pairs(texts):
        batch = family.label_batch(model, tokenizer, " ".join(pair), ids, max_length)
        targets = batch.pop("labels")
        logits = model(**{name: value.to(model.device) for name, value in batch.items()})["logits"]
        found.append(_sums(logits, targets.to(logits.device)).cpu())
    return torch.stack(found)


def _known_ids(tokenizer: Tokenizer, labels: Sequence[str]) -> LabelIds:
    # SentencePiece writes a blank before an unknown word.
    unknown = {tokenizer.find_command_id("unk"), tokenizer.find_token("<unk>"), tokenizer.find_token("▁")}
    rows = dict(zip(labels, map(tuple, tokenizer.encode_many(labels)), strict=True))
    strange = [label for label, ids in rows.items() if unknown.issuperset(ids)]
    if strange:
        raise InputError(
            f"labels has {strange!r:.200}, which the model's vocabulary does not know. Name the classes in words of "
            "the model's language."
        )
    equal = [label for label, ids in rows.items() if list(rows.values()).count(ids) > 1]
    if equal:
        raise InputError(f"labels has {equal!r:.200}, which are the same tokens to the model. Name them otherwise.")
    return rows


def _sums(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum of the targets' log-probabilities, [B, S, V] and [B, S] -> [B]."""
    losses = F.cross_entropy(logits.float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return -losses.sum(-1)
