"""What a response says: its JSON, its tool calls, its number.

Models write the same answer in many ways; every scorer reads them through here.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

_OPENING = re.compile(r"[{\[]")
_DECODER = json.JSONDecoder()
# What json and ast raise on text that is no JSON or Python, however deep or odd.
_UNREADABLE = (ValueError, SyntaxError, RecursionError, MemoryError, TypeError)


@dataclass(frozen=True)
class Call:
    """A call of a tool by named arguments."""

    name: str
    arguments: dict[str, Any]

    def text(self) -> str:
        """The canonical form: one line of JSON, arguments in their order."""
        return json.dumps({"name": self.name, "arguments": self.arguments})


def same_value(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal; `true` is not 1, but 1 is 1.0."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_value(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_value, a, b))
    return bool(a == b)


def same_calls(a: Sequence[Call], b: Sequence[Call]) -> bool:
    """Whether both hold the same calls, in any order."""
    left = list(b)
    for call in a:
        for i, other in enumerate(left):
            if call.name == other.name and same_value(call.arguments, other.arguments):
                del left[i]
                break
        else:
            return False
    return not left


def json_values(text: str) -> Iterator[Any]:
    """The JSON objects and arrays that stand in a text, outermost, in order.

    One that is cut short by the end of the text hides what it holds.
    """
    at = 0
    while match := _OPENING.search(text, at):
        try:
            value, at = _DECODER.raw_decode(text, match.start())
        except json.JSONDecodeError as error:
            if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
                return
            at = match.end()
        except RecursionError:
            return
        else:
            yield value


def first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text, whatever stands around it."""
    return next((each for each in json_values(text) if isinstance(each, dict)), None)


def tool_calls(text: str) -> list[Call]:
    """The tool calls in a response; empty if it makes none.

    Understood are `{"name": …, "arguments": …}` (or `parameters`, or OpenAI's
    `function` around it, arguments as JSON text or not), `{"name": {…}}`, lists and
    sequences of these, each also inside `<tool_call>` tags or code fences, and Python
    calls with keywords, `[f(a=1), g(b="x")]`. Reasoning up to `</think>` is skipped.
    """
    said = text.rpartition("</think>")[2]
    # First, for a dictionary among its arguments would look like JSON.
    if calls := _python_calls(said):
        return calls
    tagged = re.findall(r"<tool_call>(.*?)(?:</tool_call>|$)", said, re.DOTALL)
    return [
        call
        for part in tagged or [said]
        for value in json_values(part)
        for call in _calls_in(value)
    ]


def _calls_in(value: Any) -> list[Call]:
    if isinstance(value, list):
        return [call for each in value for call in _calls_in(each)]
    if not isinstance(value, dict):
        return []
    if isinstance(value.get("function"), dict):
        return _calls_in(value["function"])
    if isinstance(value.get("name"), str):
        arguments = _arguments(value.get("arguments", value.get("parameters")))
        return [] if arguments is None else [Call(value["name"], arguments)]
    if len(value) == 1:
        [(name, arguments)] = value.items()
        return [Call(name, arguments)] if isinstance(arguments, dict) else []
    return []


def _arguments(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except _UNREADABLE:
            return None
    return value if isinstance(value, dict) else None


def _python_calls(text: str) -> list[Call]:
    code = re.sub(r"^```\w*|```$", "", text.strip(), flags=re.MULTILINE).strip()
    try:
        with warnings.catch_warnings():
            # A backslash in a string of the model's is no concern of ours.
            warnings.simplefilter("ignore")
            tree = ast.parse(code, mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        return [_python_call(node) for node in nodes]
    except _UNREADABLE:
        return []


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("not a call with keywords alone")
    if not all(
        isinstance(part, ast.Name | ast.Attribute | ast.Load)
        for part in ast.walk(node.func)
    ):
        raise ValueError("not a dotted name")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("not a named argument")
        arguments[keyword.arg] = _as_json(ast.literal_eval(keyword.value))
    return Call(ast.unparse(node.func), arguments)


def _as_json(value: Any) -> Any:
    """Tuples as the lists that JSON has."""
    if isinstance(value, tuple | list):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _as_json(each) for key, each in value.items()}
    return value


# A sign counts unless it joins two terms; a currency sign may stand on either side of
# it. Digits inside a word or a longer number are none.
_NUMBER = re.compile(
    r"""
    (?: (?<! [\w)\].] ) (?P<sign> [-\u2212] ) )?
    (?: [$\u20ac\u00a3] (?P<inner> - )? )?
    (?<! [\w.] )
    (?P<digits> (?: \d{1,3} (?: ,\d{3} )+ (?! \d ) | \d+ ) (?: \.\d+ )? | \.\d+ )
    (?: \s? / \s? (?P<below> \d+ ) )?
    """,
    re.VERBOSE | re.ASCII,
)


def numbers(text: str) -> list[Fraction]:
    """The numbers in a text, exact: `-$1,200.50`, `.5`, `3/4`; units are dropped."""
    return [_value(match) for match in _NUMBER.finditer(text)]


def number(text: str) -> Fraction | None:
    """The number that a text is as a whole, but for a unit sign and a full stop."""
    match = _NUMBER.fullmatch(text.strip().rstrip(".%").strip())
    return None if match is None else _value(match)


def _value(match: re.Match[str]) -> Fraction:
    value = Fraction(match["digits"].replace(",", ""))
    if match["below"] and int(match["below"]):
        value /= int(match["below"])
    return -value if match["sign"] or match["inner"] else value


def final_answer(text: str) -> str | None:
    """What follows the last `####` or `The answer is`, to the end of its line."""
    marks = r"(?:####|[Tt]he answer is:?)[ \t]*(?P<answer>[^\n#]*)"
    said = [match["answer"].strip() for match in re.finditer(marks, text)]
    return next((each for each in reversed(said) if each), None)


def final_number(text: str) -> Fraction | None:
    """The number after the last `####` that has one, else the text's last number."""
    for part in reversed(text.split("####")[1:]):
        found = numbers(part)
        if found:
            return found[0]
    found = numbers(text)
    return found[-1] if found else None


def gives_answer(response: str, answer: str) -> bool:
    """Whether `response` ends in `answer`: as a number if it is one, else as text."""
    target = number(answer)
    if target is not None:
        return final_number(response) == target
    said = final_answer(response)
    return said is not None and _plain(said) == _plain(answer)


def _plain(text: str) -> str:
    return re.sub(r"\s", "", text).strip("$.").casefold()
