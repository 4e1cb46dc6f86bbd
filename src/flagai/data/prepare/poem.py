"""What a model is given for a poem."""

from enum import StrEnum

from flagai.errors import InputError

TITLE_LIMIT = 20  # characters


class PoemForm(StrEnum):
    """The forms of poems that the models know."""

    five_quatrain = "五言绝句"
    seven_quatrain = "七言绝句"
    five_regulated = "五言律诗"
    seven_regulated = "七言律诗"


def poem_prompt(text: str, form: PoemForm | None = None, place: str = "The text") -> str:
    """What a model is given for a poem, "title：form".

    Args:
        text: a title, or "title：form" with a full-width or a half-width colon.
        form: the form; default that of the text, or else four lines of seven characters.
        place: the text's name, for messages.

    Raises:
        InputError: the title is empty or too long, the form is unknown, or it is not ``form``.
    """
    title, colon, own = text.replace(":", "：").partition("：")
    if not 0 < len(title.strip()) <= len(title) <= TITLE_LIMIT:
        raise InputError(f"{place}: {title[:60]!r} is not a title for a poem: expected 1 to {TITLE_LIMIT} characters.")
    if colon and own not in set(PoemForm):
        raise InputError(f"{place}: {own[:60]!r} is not a form of a poem. Known: {', '.join(PoemForm)}.")
    if colon and form is not None and own != form:
        raise InputError(f"{place} says the form {own}, not {form}. Say one of them.")
    return f"{title}：{own or form or PoemForm.seven_quatrain}"
