"""The same answer is read the same, however a model writes it."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.tasks.scoring import (
    Call,
    final_answer,
    final_number,
    first_object,
    gives_answer,
    number,
    numbers,
    same_calls,
    same_value,
    tool_calls,
)

FIXED = settings(derandomize=True, deadline=None, max_examples=60)
# No word of Python's or of the formats'.
NAMES = st.from_regex(r"f_[a-z_]{0,5}(\.g_[a-z]{0,4})?", fullmatch=True)
KEYS = st.from_regex(r"[b-z]_[a-z_]{1,5}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=5
)
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=3)
CALLS = st.lists(st.builds(Call, NAMES, ARGUMENTS), min_size=1, max_size=3)


@FIXED
@given(ARGUMENTS, st.sampled_from(["", "Sure: ", "{ no } ", "[see] "]))
def test_the_first_object_is_found_in_prose(value: dict[str, Any], prose: str) -> None:
    text = f"{prose}{json.dumps(value)} and {{}} that is all."
    assert first_object(text) == value


@pytest.mark.parametrize(
    "text", ["", "none", "[1, 2]", "{'a': 1}", '{"a": {"b": 1}', "{" * 9999]
)
def test_without_an_object_there_is_none(text: str) -> None:
    assert first_object(text) is None


@FIXED
@given(CALLS)
def test_calls_are_read_in_every_form(calls: list[Call]) -> None:
    objects = [{"name": each.name, "arguments": each.arguments} for each in calls]
    functions = [
        {"function": {"name": each.name, "arguments": json.dumps(each.arguments)}}
        for each in calls
    ]
    lines = [each.text() for each in calls]
    keywords = [
        f"{each.name}({', '.join(f'{k}={v!r}' for k, v in each.arguments.items())})"
        for each in calls
    ]
    for text in (
        json.dumps(objects),
        f"<think>\nf(a=1) or {{}}?\n</think>\n{json.dumps(objects)}",
        f"Here:\n```json\n{json.dumps(objects, indent=2)}\n```",
        "; ".join(lines).replace('"arguments"', '"parameters"'),
        "\n".join(f"<tool_call>\n{line}\n</tool_call>" for line in lines),
        json.dumps(functions),
        json.dumps([{each.name: each.arguments} for each in calls]),
        f"[{', '.join(keywords)}]",
        f"```python\n[{', '.join(keywords)}]\n```",
    ):
        assert same_calls(tool_calls(text), calls), text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot.",
        "f(1)",
        "f(**{})",
        "f(a=b)",
        "f()()",
        "{}",
        '{"name": 3}',
        "((" * 999,
    ],
)
def test_what_is_no_call_is_none(text: str) -> None:
    assert tool_calls(text) == []


def test_a_call_cut_short_is_none() -> None:
    whole = '<tool_call>{"name": "f", "arguments": {"a": 1}}'
    assert tool_calls(whole) == [Call("f", {"a": 1})]
    assert tool_calls(whole[:-1]) == []


def test_a_dictionary_argument_is_no_call() -> None:
    assert tool_calls('f(a={"b": {"c": 1}})') == [Call("f", {"a": {"b": {"c": 1}}})]


def test_tuples_are_arrays_and_odd_strings_raise_no_warning() -> None:
    [call] = tool_calls(r'f(a=(1, 2), b="\d")')
    assert call.arguments == {"a": [1, 2], "b": r"\d"}


def test_values_are_compared_as_json() -> None:
    assert same_value({"a": [1, {"b": 2.0}]}, {"a": [1.0, {"b": 2}]})
    for a, b in ((True, 1), (0, False), ([1], [1, 2]), ({"a": 1}, {}), ("1", 1)):
        assert not same_value(a, b)
        assert not same_value([a], [b])


@FIXED
@given(CALLS, st.randoms())
def test_the_order_of_calls_is_free(calls: list[Call], random: Any) -> None:
    shuffled = random.sample(calls, len(calls))
    assert same_calls(calls, shuffled)
    assert not same_calls(calls, shuffled[1:])
    assert not same_calls(calls, [*shuffled, shuffled[0]])


@FIXED
@given(
    st.fractions(min_value=-(10**9), max_value=10**9).map(lambda f: round(f, 3)),
    st.sampled_from(["{}", "${}", "{}.", "{} apples.", "so 48/2 = {}!", "a-1 is ({})"]),
)
def test_numbers_are_read_with_their_signs(value: Fraction, form: str) -> None:
    for written in (f"{float(value):,.3f}", f"{float(value):.3f}"):
        assert numbers(form.format(written))[-1] == value
        assert number(written) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-$5", -5),
        ("$-5", -5),
        ("10-5", 5),
        ("10 - 5", 5),
        ("10-$5", 5),
        ("x = -5", -5),
        ("a \u22125", -5),
        ("1,2,3", 3),
        ("1,234,56", 56),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("3 / 0", 3),
        ("50%.", 50),
        ("7 or x2", 7),
        ("7 in v1.2", 7),
        ("none", None),
    ],
)
def test_the_last_number_of_a_text(text: str, value: Fraction | None) -> None:
    assert final_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 1 = 2\n#### 1,319", 1319),
        ("#### $18.00 (18 dollars, not 20)", 18),
        ("#### 3 no: #### 4.\nCheck: 5", 4),
        ("it is 7 ####", 7),
        ("#### -12", -12),
    ],
)
def test_the_marked_number_is_final(text: str, value: int) -> None:
    assert final_number(text) == value


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("… so 5.\n#### 5", "5", True),
        ("The answer is: 5.0", "5", True),
        ("The answer is: 6", "5", False),
        (r"The answer is: $\frac{1}{2}$.", r"\frac{1}{2}", True),
        (r"The answer is: \frac{1}{3}", r"\frac{1}{2}", False),
        (r"\frac{1}{2}", r"\frac{1}{2}", False),
        ("#### None", "None", True),
        ("#### 3", "None", False),
    ],
)
def test_an_answer_is_a_number_or_a_text(
    response: str, answer: str, right: bool
) -> None:
    assert gives_answer(response, answer) is right


def test_the_final_answer_is_the_last_one_given() -> None:
    assert final_answer("The answer is: 1\n#### 2\nand 3") == "2"
    assert final_answer("#### 2\nThe answer is:") == "2"
    assert final_answer("2") is None
