"""Which tokens of a JSON answer spell which of its fields."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from typing import Any

# A name, and where its value starts and stops.
Field = tuple[str, int, int]

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def token_fields(tokenizer: Any, answer: str) -> tuple[Field, ...]:
    """The fields of `answer` over its tokens; none unless it is a JSON object.

    A token belongs to a field if it spells any of its value's characters.
    """
    values = json_values(answer)
    if not values:
        return ()
    encoded = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    starts, ends = zip(*encoded["offset_mapping"], strict=True)
    return tuple(
        (name, bisect_right(ends, start), bisect_left(starts, stop))
        for name, start, stop in values
    )


def json_values(text: str) -> tuple[Field, ...]:
    """Where in the characters of a JSON object each value stands, in its order.

    Nested objects give names with dots (`arguments.town`); a list is one value. A
    string's quotes belong to it, and so does the character behind a number or a
    literal: only there is said that the value ends. Text that is no JSON object has
    no values.
    """
    try:
        if not isinstance(json.loads(text), dict):
            return ()
        return tuple(_members(text, _skip(text, 0), "")[0])
    except (ValueError, RecursionError):
        return ()


def _members(text: str, at: int, prefix: str) -> tuple[list[Field], int]:
    """The values of the object that opens at `at`, and where it ends."""
    found: list[Field] = []
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # over the colon
        if text[at] == "{":
            inner, at = _members(text, at, f"{prefix}{key}.")
            found += inner
        else:
            start = at
            _, at = _DECODER.raw_decode(text, start)
            found.append((prefix + key, start, at + (text[at - 1] not in '"]')))
        at = _skip(text, at)
        at = _skip(text, at + 1) if text[at] == "," else at
    return found, at + 1


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
