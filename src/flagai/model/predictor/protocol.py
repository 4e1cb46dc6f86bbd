"""How each kind of model is asked to write: what its prompt looks like and which tokens end the answer. Data only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flagai.data.prepare import bert, causal, encoder_decoder, glm
from flagai.data.prompt import Prompt
from flagai.data.tokenizer import Tokenizer
from flagai.model.base_model import BaseModel
from flagai.model.bert_model import BertForSeq2seq
from flagai.model.glm_model import GLMForSeq2Seq
from flagai.model.gpt2_model import GPT2Model
from flagai.model.t5_model import T5Model

Prompts = Callable[[Tokenizer, Sequence[str], int | None], list[Prompt]]
Tokens = Callable[[Tokenizer], tuple[int, ...]]


@dataclass(frozen=True)
class Protocol:
    """How a kind of model is asked to write.

    Args:
        prompts: texts to prompts of at most so many tokens.
        stop: the tokens that end an answer.
        never: tokens that are never written.
        never_sampled: tokens that are not written by chance.
        start: the token that starts an answer, if the prompt's end does not.
        order: the order in which scores are changed before a token is drawn.
        configured_ends: whether the configuration's ``eos_token_id`` ends an answer, too, as in transformers.
    """

    prompts: Prompts
    stop: Tokens
    never: Tokens
    never_sampled: Tokens
    start: Tokens
    order: tuple[str, ...]
    configured_ends: bool = False


def _named(*names: str) -> Tokens:
    """The command tokens of these names that a tokenizer has."""

    def find(tokenizer: Tokenizer) -> tuple[int, ...]:
        found = (tokenizer.find_command_id(name) for name in names)
        return tuple(dict.fromkeys(token for token in found if token is not None))

    return find


def _commands_except(*names: str) -> Tokens:
    """All command tokens but these."""
    kept = _named(*names)
    return lambda tokenizer: tuple(sorted(tokenizer.command_ids - set(kept(tokenizer))))


def _bert_prompts(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> list[Prompt]:
    return [Prompt(tuple(row.ids)) for row in bert.rows(tokenizer, texts, max_length)]


_NONE = _named()
_UNKNOWN = _named("unk")
_USUAL = ("repetition_penalty", "temperature", "top_k", "top_p")

BLANKS = Protocol(glm.blank_prompts, _named("eop", "eos"), _commands_except("eop", "eos"), _NONE, _named("sop"), _USUAL)
GLM_SEQ2SEQ = Protocol(
    glm.causal_prompts,
    _named("eop"),
    _commands_except("eop"),
    _NONE,
    _NONE,
    ("temperature", "top_p", "repetition_penalty", "top_k"),
)
UNILM = Protocol(_bert_prompts, _named("sep"), _NONE, _UNKNOWN, _NONE, _USUAL)
CONTINUATION = Protocol(
    causal.prompts,
    lambda tokenizer: (tokenizer.token_end_id,),
    _NONE,
    _UNKNOWN,
    _NONE,
    _USUAL,
    configured_ends=True,
)
ENCODER_DECODER = Protocol(
    encoder_decoder.prompts,
    lambda tokenizer: (encoder_decoder.start_and_end(tokenizer)[1],),
    _NONE,
    _UNKNOWN,
    lambda tokenizer: (encoder_decoder.start_and_end(tokenizer)[0],),
    _USUAL,
    configured_ends=True,
)


def protocol_of(model: BaseModel, tokenizer: Tokenizer, text: str) -> Protocol:
    """How this model is asked about this text.

    A GLM fills blanks where the text has a mask; a plain ``GLMModel`` continues any other text as a blank at its
    end, which is how it was pretrained; other GLMs write in the form in which titles and poems are trained.

    Args:
        model: one of the writers.
        tokenizer: its tokenizer.
        text: the text.
    """
    for cls, protocol in ((BertForSeq2seq, UNILM), (GPT2Model, CONTINUATION), (T5Model, ENCODER_DECODER)):
        if isinstance(model, cls):
            return protocol
    masked = tokenizer.has_command(text, glm.MASKS)
    return BLANKS if masked or not isinstance(model, GLMForSeq2Seq) else GLM_SEQ2SEQ


def first_token(model: BaseModel, tokenizer: Tokenizer) -> int | None:
    """The decoder's first token where the configuration decides it, as T5's does; None where the protocol does.

    Args:
        model: one of the writers.
        tokenizer: its tokenizer; T5s with a BERT vocabulary begin with [CLS], whatever they are configured to.
    """
    return model.config.start_token if isinstance(model, T5Model) and tokenizer.kind == "t5" else None
