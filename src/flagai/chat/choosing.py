"""Which format a model's conversations have: as its repository says, or as its generation was trained."""

from flagai.chat.format import ChatFormat
from flagai.chat.roles import ChatGLM3Format, GLM4Format
from flagai.chat.rounds import ChatGLM2Format, ChatGLMFormat
from flagai.chat.template_format import FILE, TemplateFormat, template_of
from flagai.data.tokenizer import Tokenizer
from flagai.errors import InputError

FORMATS: dict[str, type[ChatFormat]] = {
    each.name: each for each in (ChatGLMFormat, ChatGLM2Format, ChatGLM3Format, GLM4Format)
}
# The generations whose own code, and no template, writes their conversations.
_BY_CODE = ("chatglm", "chatglm2", "chatglm3")


def chat_format(tokenizer: Tokenizer, name: str | None = None) -> ChatFormat:
    """How the conversations of a tokenizer's model are written.

    Args:
        tokenizer: the model's.
        name: "chatglm", "chatglm2", "chatglm3", "glm4" or "template"; default: ChatGLM's generation, else the template
            of the folder, else GLM-4's.

    Raises:
        InputError: the model has no such format; the message says what to do.
        VocabularyError: the folder's template is none.

    Example:
        >>> chat_format(tokenizer).encode([{"role": "user", "content": "你好"}])
    """
    if name is not None and name not in (*FORMATS, TemplateFormat.name):
        raise InputError(f"There is no chat format {name!r:.80}. Known: {', '.join((*FORMATS, TemplateFormat.name))}.")
    own = tokenizer.description.table
    if name in FORMATS or (name is None and own in _BY_CODE):
        return _built_in(name or str(own), tokenizer)
    template = template_of(tokenizer)
    if template is not None:
        return TemplateFormat(tokenizer, template)
    if name is None and own in FORMATS:
        return _built_in(str(own), tokenizer)
    raise InputError(
        f"{tokenizer.description.name} has no chat template, so it was not trained to chat; write() continues texts. "
        f"If it was, put its template into {tokenizer.description.folder / FILE}."
    )


def _built_in(name: str, tokenizer: Tokenizer) -> ChatFormat:
    found = FORMATS[name](tokenizer)
    try:
        found.encode([{"role": "user", "content": ""}])
    except InputError as error:
        raise InputError(f"{tokenizer.description.name} has not the tokens of the format {name!r}: {error}") from error
    return found
