"""One call of one function, compared with every answer that is right.

The `simple` and `multiple` Python categories of the Berkeley Function-Calling
Leaderboard (Patil et al., ICML 2025) and its rules: each argument has a list of right
values; strings are compared without case, spaces and some punctuation; an argument
whose list holds "" may be left out; an integer may stand for a float.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prefillshare.tasks.base import Marks, Sample, Unit
from prefillshare.tasks.recipes.tools import asked, text_of
from prefillshare.tasks.rows import Row
from prefillshare.tasks.scoring import Call, same_value, tool_calls

_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_LEFT_OUT = ""


def unit_of(row: Row) -> Unit:
    """A problem; its reference has the first right value of each argument.

    Raises:
        DataError: `question`, `function` or `ground_truth` is not as the categories
            have it: one turn of the user's, and one right call of a listed function.
    """
    name, possible = _right_call(row)
    functions = row.get("function", list)
    called = [f for f in functions if isinstance(f, dict) and f.get("name") == name]
    if not called:
        raise row.error("function", f"has no {name!r}", "list the function to call")
    parameters = called[0].get("parameters")
    if not isinstance(parameters, dict) or not isinstance(
        parameters.get("properties"), dict
    ):
        raise row.error("function", f"gives {name!r} no properties", "list them")
    call = Call(name, _first_of_each(possible, parameters.get("required", ())))
    sample = asked(functions, _question(row), text_of([call]))
    facts = {"name": name, "parameters": parameters, "possible": possible}
    return (Sample(sample.messages, "", sample.answer, facts=facts),)


def score(sample: Sample, response: str) -> Marks:
    """Whether the response makes one call, of the right function, and a right one."""
    calls = tool_calls(response)
    one = len(calls) == 1 and calls[0].name == sample.facts["name"]
    return {"name": one, "exact": one and _is_right(calls[0], sample.facts)}


def _is_right(call: Call, facts: Mapping[str, Any]) -> bool:
    possible: Mapping[str, Sequence[Any]] = facts["possible"]
    properties = facts["parameters"]["properties"]
    required = facts["parameters"].get("required", ())
    needed = {key for key, values in possible.items() if _LEFT_OUT not in values}
    return {*needed, *required} <= call.arguments.keys() and all(
        name in properties
        and name in possible
        and _fits(value, properties[name], possible[name])
        for name, value in call.arguments.items()
    )


def _fits(value: Any, schema: Mapping[str, Any], possible: Sequence[Any]) -> bool:
    expected = _TYPES.get(str(schema.get("type")))
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        # The name of a variable, say, where a number is declared: it must be the same.
        return any(
            type(value) is type(option) and same_value(value, option)
            for option in possible
            if option != _LEFT_OUT
        )
    items = schema.get("items")
    item = _TYPES.get(str(items.get("type"))) if isinstance(items, dict) else None
    return any(
        _agrees(value, option) and _items_are_of(item, value, option)
        for option in possible
    )


def _items_are_of(item: type | None, value: Any, option: Any) -> bool:
    """In a list, an integer does not stand for a float."""
    if not isinstance(value, list) or item is None:
        return True
    return all(type(each) in (item, type(option[0])) for each in value)


def _agrees(value: Any, option: Any) -> bool:
    if isinstance(value, str) and isinstance(option, str):
        return _standard(value) == _standard(option)
    if isinstance(value, list) and isinstance(option, list):
        return len(value) == len(option) and all(map(_agrees, value, option))
    if isinstance(value, dict) and isinstance(option, dict):
        # Each key of an option has a list of right values in its turn.
        return value.keys() <= option.keys() and all(
            any(_agrees(value[key], each) for each in allowed)
            if key in value
            else _LEFT_OUT in allowed
            for key, allowed in option.items()
        )
    return same_value(value, option)


def _standard(text: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def _right_call(row: Row) -> tuple[str, dict[str, list[Any]]]:
    calls = row.get("ground_truth", list)
    if len(calls) != 1 or not isinstance(calls[0], dict) or len(calls[0]) != 1:
        raise row.error(
            "ground_truth", f"holds {calls!r:.80}", "give one call, {name: arguments}"
        )
    [(name, possible)] = calls[0].items()
    if not isinstance(possible, dict) or not all(
        isinstance(values, list) and values for values in possible.values()
    ):
        raise row.error(
            "ground_truth", f"holds {possible!r:.80}", "list each argument's values"
        )
    return name, possible


def _question(row: Row) -> str:
    turns = row.get("question", list)
    match turns:
        case [[{"role": "user", "content": str(content)}]] if content.strip():
            return content
    raise row.error(
        "question", f"holds {turns!r:.80}", "give one turn of one user message"
    )


def _first_of_each(
    possible: Mapping[str, Sequence[Any]], required: Collection[str] = ()
) -> dict[str, Any]:
    chosen = {}
    for key, values in possible.items():
        given = [value for value in values if value != _LEFT_OUT]
        if given and (key in required or values[0] != _LEFT_OUT):
            chosen[key] = _plain(given[0])
    return chosen


def _plain(value: Any) -> Any:
    """A right value, with the first right value of each key of objects in it."""
    if isinstance(value, dict):
        return _first_of_each(value)
    return [_plain(each) for each in value] if isinstance(value, list) else value
