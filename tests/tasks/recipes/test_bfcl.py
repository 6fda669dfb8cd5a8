"""A call is right if every argument is one of those that are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prefillshare.errors import DataError
from prefillshare.tasks.base import Sample
from prefillshare.tasks.recipes import bfcl
from prefillshare.tasks.rows import Row

PROPERTIES = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "rate": {"type": "float"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "sizes": {"type": "array", "items": {"type": "integer"}},
    "box": {"type": "dict"},
    "fast": {"type": "boolean"},
}
RIGHT = {
    "city": ["New York, NY", "NYC"],
    "days": ["", 3],
    "rate": [0.5, 2, ""],
    "tags": [["a b", "c"], ""],
    "sizes": [[1, 2], ""],
    "box": [{"color": ["red", "dark red"], "lid": [True, ""]}, ""],
    "fast": [False, "default_speed", ""],
}
COLUMNS: dict[str, Any] = {
    "id": "simple_0",
    "question": [[{"role": "user", "content": "Ship to New York."}]],
    "function": [
        {
            "name": "post.ship",
            "description": "Ships.",
            "parameters": {
                "type": "dict",
                "properties": PROPERTIES,
                "required": ["city", "days"],
            },
        }
    ],
    "ground_truth": [{"post.ship": RIGHT}],
}


def sample(**change: Any) -> Sample:
    [each] = bfcl.unit_of(Row("f.json, line 1", COLUMNS | change))
    return each


def exact(name: str = "post.ship", **arguments: Any) -> bool:
    given = {"city": "NYC", "days": 3} | arguments
    call = {"name": name, "arguments": given}
    return bfcl.score(sample(), json.dumps([call]))["exact"]


def test_the_prompt_lists_the_functions_and_the_reference_is_right() -> None:
    first = sample()
    system, user = first.messages
    assert json.dumps(COLUMNS["function"]) in system["content"]
    assert user["content"] == "Ship to New York."
    [call] = json.loads(first.answer)
    assert call["arguments"]["city"] == "New York, NY"
    assert call["arguments"]["days"] == 3
    assert call["arguments"]["box"] == {"color": "red", "lid": True}
    assert bfcl.score(first, first.answer) == {"name": True, "exact": True}


def test_any_of_the_right_values_will_do() -> None:
    assert exact()
    assert exact(city="new york ny", tags=["A.B", "C"], sizes=[1, 2], fast=False)
    assert exact(rate=0.5) and exact(rate=2) and exact(rate=2.0)
    assert exact(box={"color": "Dark-Red"}) and exact(box={"color": "red", "lid": True})
    assert exact(fast="default_speed")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "post_ship"},
        {"city": "York"},
        {"city": 3},
        {"days": 4},
        {"days": 3.0},
        {"days": "3"},
        {"days": ""},
        {"days": True},
        {"rate": 0.4},
        {"rate": "0.5"},
        {"tags": ["c", "a b"]},
        {"tags": ["a b"]},
        {"sizes": [1.0, 2.0]},
        {"sizes": []},
        {"box": {}},
        {"box": {"color": "red", "lid": False}},
        {"box": {"color": "red", "size": 1}},
        {"fast": 0},
        {"fast": "Default_Speed"},
        {"price": 1},
    ],
)
def test_anything_else_is_wrong(wrong: dict[str, Any]) -> None:
    assert not exact(**wrong)


def test_an_argument_is_left_out_only_where_that_is_right() -> None:
    def says(arguments: dict[str, Any], **change: Any) -> bool:
        call = json.dumps({"name": "post.ship", "arguments": arguments})
        return bfcl.score(sample(**change), call)["exact"]

    assert not says({"city": "NYC"}), "required, though its values hold an empty one"
    assert not says({"days": 3})
    strict = [{"post.ship": RIGHT | {"rate": [0.5]}}]
    assert not says({"city": "NYC", "days": 3}, ground_truth=strict)


def test_one_call_is_asked_for() -> None:
    right = sample().answer
    two = json.dumps(json.loads(right) * 2)
    assert bfcl.score(sample(), two) == {"name": False, "exact": False}
    assert bfcl.score(sample(), "No.") == {"name": False, "exact": False}
    python = "[post.ship(city='NYC', days=3)]"
    assert bfcl.score(sample(), python) == {"name": True, "exact": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": []}, "'question' holds .*; give one turn of one user message"),
        ({"question": [[{"role": "user", "content": " "}]]}, "'question' holds"),
        ({"function": []}, "'function' has no 'post.ship'; list the function"),
        (
            {"function": [{"name": "post.ship"}]},
            "'function' gives 'post.ship' no",
        ),
        ({"ground_truth": []}, "'ground_truth' holds .*; give one call"),
        ({"ground_truth": [{"f": {"a": 1}}]}, "'ground_truth' holds .*; list each"),
        ({"ground_truth": "f(1)"}, "'ground_truth' holds 'f.1.'; write an array"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"f.json, line 1: column {message}"):
        sample(**change)
