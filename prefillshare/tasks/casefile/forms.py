"""The forms that answers take: how values are written, read back and marked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import Any, Protocol

from prefillshare.tasks.base import Marks
from prefillshare.tasks.casefile.records import Values


class Form(Protocol):
    """How an answer is written. What `render` writes, `parse` reads back."""

    @property
    def fields(self) -> tuple[str, ...]:
        """What the fullest answer says, in its order; not the name of a tool."""

    def render(self, values: Mapping[str, int | str]) -> str:
        """The answer that says `values`."""

    def parse(self, text: str) -> Values | None:
        """What `text` says, as far as it has this form; None if it has not."""


@dataclass(frozen=True)
class ToolCall:
    """A JSON call `{"name": …, "arguments": {…}}`.

    The value `name` is the tool's, the others are its arguments.
    """

    arguments: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The arguments."""
        return self.arguments

    def render(self, values: Mapping[str, int | str]) -> str:
        """The call as one line of JSON."""
        arguments = {argument: values[argument] for argument in self.arguments}
        return json.dumps({"name": values["name"], "arguments": arguments})

    def parse(self, text: str) -> Values | None:
        """By structure: spacing and order do not count, types do."""
        match _json(text):
            case {"name": name, "arguments": dict(arguments)}:
                stated = {"name": name, **arguments}
            case _:
                return None
        # Whole numbers and strings only; `True` is an int in Python.
        return {
            field: stated[field]
            for field in ("name", *self.arguments)
            if type(stated.get(field)) in (int, str)
        }


@dataclass(frozen=True)
class Sentence:
    """Text with `{field}` gaps, in one of several wordings.

    Rendered with the first wording whose fields are all at hand, so the fullest
    stands first.
    """

    wordings: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The gaps of the first wording."""
        return _gaps(self.wordings[0])

    def render(self, values: Mapping[str, int | str]) -> str:
        """The sentence that names `values`."""
        wording = next(w for w in self.wordings if values.keys() >= {*_gaps(w)})
        return wording.format_map(values)

    def parse(self, text: str) -> Values | None:
        """The gaps' contents, from the first wording that `text` fits whole."""
        for wording in self.wordings:
            if found := _pattern(wording).fullmatch(text):
                return {
                    field: int(held) if field in _NUMBERS else held
                    for field, held in found.groupdict().items()
                }
        return None


_NUMBERS = {"order", "quantity", "price", "total", "billed"}
_WORDS = {
    "customer": r"[A-Z][a-z]{1,20} [A-Z][a-z]{1,20}",
    "item": r"[a-z]{1,20}",
    "town": r"[A-Z][a-z]{1,20}",
    "orders": r"\d{1,9}(?:, \d{1,9})*",
    "field": r"[a-z]{1,20}",
    "verdict": r"correct|wrong|first|second",
    # As an earlier agent gave it, or a whole line: anything.
    "right": r"[^,]+",
    "values": r".+",
    "entry": r".+",
}


def marks(form: Form, reference: str, response: str) -> Marks:
    """Which fields of `reference` the response has right; `form` if it can be read."""
    said = form.parse(response)
    expected = form.parse(reference) or {}
    found = {
        field: said is not None and _same(said.get(field), value)
        for field, value in expected.items()
    }
    return {"form": said is not None, **found, "exact": response == reference}


def _same(said: object, value: object) -> bool:
    return type(said) is type(value) and said == value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


@cache
def _gaps(wording: str) -> tuple[str, ...]:
    return tuple(field for _, field, _, _ in Formatter().parse(wording) if field)


@cache
def _pattern(wording: str) -> re.Pattern[str]:
    parts = []
    for literal, field, _, _ in Formatter().parse(wording):
        parts.append(re.escape(literal))
        if field:
            number = r"0|[1-9][0-9]{0,8}"
            parts.append(f"(?P<{field}>{_WORDS.get(field, number)})")
    return re.compile("".join(parts), re.ASCII | re.DOTALL)
