"""Tables of the reference, made from the code; a line of a page that ends with ``<!-- table: NAME -->`` becomes one."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_type_hints, is_typeddict

import typer

from flagai import errors, settings
from flagai.catalog.catalog import list_models
from flagai.catalog.tasks import ALIASES, TASKS
from flagai.cli import app
from flagai.cli.translation import translate
from flagai.families.family import all_families
from flagai.generation import keywords
from flagai.generation.keywords import GenerationOptions
from flagai.generation.options import RENAMED_IDS, RENAMED_TEXTS, Decoding
from flagai.generation.types import LogitsProcessor
from flagai.model.config_fields import field_specs

# An option's name in transformers, where it has another one; None where transformers has none.
_TRANSFORMERS = {
    "stop_token_ids": "eos_token_id",
    "start_id": "decoder_start_token_id",
    "seed": None,
    "seeds": None,
    "processors": None,
    "cuda_graphs": None,
    # Of the options in texts.
    "bad_words": "bad_words_ids",
    "force_words": "force_words_ids",
    "stop": "stop_strings",
    "logits_processors": "logits_processor",
    "truncation": None,
    "adapter": None,
}
_TITLES = {
    "glm": "GLM",
    "bert": "BERT",
    "gpt2": "GPT-2",
    "t5": "T5",
    "chatglm": "ChatGLM-6B and GLM-130B",
    "chatglm2": "ChatGLM2 to GLM-4",
}


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    cells = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)


def _code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _limits(low: float | None, high: float | None, above: bool = False) -> str:
    if low is None and high is None:
        return ""
    upper = "" if high is None or high == float("inf") else f" to {_bound(high)}"
    return f"{'> ' if above else '' if upper else '>= '}{_bound(low or 0)}{upper}"


def _bound(number: float) -> str:
    power = int(number).bit_length() - 1
    return f"2^{power}" if number == 2**power and number > 4096 else f"{number:,}"


def _type(hint: Any) -> str:
    return re.sub(r"\b(?:typing|collections\.abc|flagai(?:\.\w+)+)\.", "", getattr(hint, "__name__", "") or str(hint))


def arguments_of(cls: type) -> dict[str, str]:
    """What the Args section of a class says of each name."""
    section = (cls.__doc__ or "").partition("Args:\n")[2]
    entries = re.findall(r"^        (\w+): (.*(?:\n            .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def configuration() -> Iterator[str]:
    """The fields of every family's configuration."""
    for family in all_families():
        config = family.load(family.classes[0].name).config_class
        rows = []
        for spec in field_specs(config).values():
            default = config.__dataclass_fields__[spec.name].default
            shown = json.dumps(default) if default is None or isinstance(default, bool) else default
            limits = "" if spec.range is None else _limits(*spec.range)
            rows.append(
                (_code(spec.name, *spec.aliases), "required" if spec.required else f"`{shown}`", limits, spec.doc)
            )
        yield f"## {_TITLES[family.name]}\n\n`{config.__name__}`"
        yield table(("field", "default", "range", "meaning"), rows)


def environment() -> Iterator[str]:
    """Every environment variable."""
    rows = [
        (_code(each.name), each.default if each.default == "none" else _code(each.default), each.about)
        for each in settings.VARIABLES
    ]
    yield table(("variable", "default", "meaning"), rows)


def options() -> Iterator[str]:
    """The options of generation: in texts those of ``Predictor``, in ids those of the engine."""
    about = {
        name: said
        for kind in vars(keywords).values()
        if is_typeddict(kind)
        for name, said in arguments_of(kind).items()
    }
    hints = get_type_hints(GenerationOptions, localns={"LogitsProcessor": LogitsProcessor})
    yield "### Of `Predictor`, `flagai.load` and `flagai serve`"
    yield _options(hints, about, RENAMED_TEXTS)
    yield "### Of the engine: `Decoding`"
    yield _options(get_type_hints(Decoding), arguments_of(Decoding), RENAMED_IDS)


def _options(hints: Mapping[str, Any], about: Mapping[str, str], renamed: Mapping[str, str]) -> str:
    fields = {field.name: field for field in dataclasses.fields(Decoding)}
    rows = []
    for name, hint in hints.items():
        field = fields.get(name)
        limits = {} if field is None else field.metadata
        other = _TRANSFORMERS.get(name, name)
        rows.append(
            (
                _code(name),
                _code(_type(hint)),
                _code(repr(field.default)) if field else "",
                _limits(limits.get("low"), limits.get("high"), limits.get("above", False)),
                _code(other) if other else "none",
                about[name],
                _code(*(old for old, new in renamed.items() if new == name)),
            )
        )
    return table(("option", "type", "default", "range", "in transformers", "meaning", "former names"), rows)


def commands() -> Iterator[str]:
    """Every command with its arguments and options."""
    yield from _commands(typer.main.get_command(app), ("argument or option", "meaning"))


def chinese_commands() -> Iterator[str]:
    """The same in Chinese."""
    group = typer.main.get_command(app)
    translate(group)
    yield from _commands(group, ("参数或选项", "含义"))


def _commands(group: Any, columns: Sequence[str]) -> Iterator[str]:
    yield f"## flagai\n\n{_parameters(group, 'flagai', columns)}"
    for name, command in _leaves(group, "flagai"):
        context = typer.Context(command, info_name=name)
        usage = command.get_usage(context).removeprefix("Usage: ")
        yield f"## {name}\n\n{_plain(command.help)}\n\n```text\n{usage}\n```\n\n{_parameters(command, name, columns)}"


def _leaves(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _parameters(command: Any, name: str, columns: Sequence[str]) -> str:
    context = typer.Context(command, info_name=name)
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
    return table(columns, [(_code(left), _plain(right)) for left, right in records])


def _plain(text: str | None) -> str:
    """Text of a command as Markdown: brackets and stars mean themselves."""
    return re.sub(r"([\[\]*_<>])", r"\\\1", text or "")


def tasks() -> Iterator[str]:
    """Which class of each family does a task."""
    families = list(all_families())
    rows = []
    for task in TASKS:
        classes = [", ".join(_code(row.name) for row in family.classes if task in row.tasks) for family in families]
        rows.append((_code(task), _code(*(old for old, new in ALIASES.items() if new == task)), *classes))
    yield table(("task", "other names", *(_TITLES[family.name] for family in families)), rows)


def catalog() -> Iterator[str]:
    """Every model with where it can be had, and its licence."""
    rows = [
        (
            card.name,
            card.generation or card.family,
            card.task,
            card.language,
            _size(card.parameters),
            card.available_from,
            card.licence,
        )
        for card in list_models()
    ]
    yield table(("model", "family", "task", "language", "parameters", "available from", "licence"), rows)


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def exceptions() -> Iterator[str]:
    """Every exception, and what it is besides."""
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.FlagAIError)]
    rows = [
        (_code(each.__name__), _code(*(base.__name__ for base in each.__bases__)), (each.__doc__ or "").split("\n")[0])
        for each in found
    ]
    yield table(("exception", "is also", "raised where"), rows)


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    function.__name__: function
    for function in (catalog, chinese_commands, commands, configuration, environment, exceptions, options, tasks)
}
_PLACE = re.compile(r"^.*<!-- table: (\w+) -->$", re.MULTILINE)


def filled(markdown: str) -> str:
    """A page with its tables."""
    return _PLACE.sub(lambda place: "\n\n".join(TABLES[place[1]]()), markdown)
