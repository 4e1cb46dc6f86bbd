"""Reading a table of a card strictly: every value has a type, and no key is left over."""

import difflib
from collections.abc import Mapping
from typing import Any, NoReturn

from flagai.errors import CatalogError
from flagai.typed_json import shown


class Fields:
    """A table of which every key is asked for once.

    Args:
        table: the content.
        place: where it stands, for messages: file, card, and field if it is a table within a card.
    """

    def __init__(self, table: Mapping[str, Any], place: str) -> None:
        self.place = place
        self._left = dict(table)
        self._known: list[str] = []

    def fail(self, name: str, message: str) -> NoReturn:
        """Raise an error that names the place and the field.

        Raises:
            CatalogError: always.
        """
        raise CatalogError(f"{self.place}, {name:.120}: {message}")

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty; without a default the field is required."""
        value = self._take(name, str, "a text in quotes", default)
        if not value.strip() and value is not default:
            self.fail(name, "is empty. Write something, or leave the line out.")
        return str(value)

    def choice(self, name: str, known: tuple[str, ...], default: str | None = None) -> str:
        """One of the known words."""
        value = self.text(name, default)
        if value not in known and value is not default:
            self.fail(name, f"{shown(value)} is unknown{_near(value, known)} Choose one of {', '.join(known)}.")
        return value

    def optional(self, name: str) -> str | None:
        """A text, if there is one."""
        return self.text(name, "") or None

    def count(self, name: str) -> int | None:
        """A number of things, at least 1, if there is one."""
        value = self._take(name, int, "a whole number", 0)
        if isinstance(value, bool) or value < 0:
            self.fail(name, f"{shown(value)} is no number of things. Write a whole number above 0.")
        return value or None

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, none by default."""
        values = self.values(name)
        if not all(isinstance(value, str) and value.strip() for value in values):
            self.fail(name, 'is not a list of texts. Write it as ["one", "two"].')
        return values

    def values(self, name: str) -> tuple[Any, ...]:
        """A list of anything, empty by default."""
        return tuple(self._take(name, list, "a list", []))

    def table(self, name: str) -> dict[str, Any]:
        """A table within this one, empty by default."""
        return dict(self._take(name, dict, "a table", {}))

    def finish(self) -> None:
        """Complain of keys that nobody asked for.

        Raises:
            CatalogError: there is one.
        """
        for name in self._left:
            self.fail(name, f"there is no such field{_near(name, tuple(self._known))} Known: {', '.join(self._known)}.")

    def _take(self, name: str, kind: type, wanted: str, default: Any) -> Any:
        self._known.append(name)
        if name not in self._left:
            if default is None:
                self.fail(name, "is missing. Every card needs it.")
            return default
        value = self._left.pop(name)
        if not isinstance(value, kind):
            self.fail(name, f"{shown(value)} is not {wanted}.")
        return value


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else "."
