"""Each format reads its columns, scores its reference in full and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prefillshare.errors import DataError
from prefillshare.tasks.base import Sample, Unit
from prefillshare.tasks.recipes.formats import FORMATS
from prefillshare.tasks.recipes.sources import FormatName
from prefillshare.tasks.rows import Row
from prefillshare.tasks.sandbox.runner import Limits

CALLS = [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "It is 42."},
]
COLUMNS: dict[FormatName, dict[str, Any]] = {
    "metamath": {"query": "1 + 1?", "response": "It is 2. The answer is: 2"},
    "gsm8k": {"question": "1 + 1?", "answer": "It is 2.\n#### 2"},
    "gsm_plus": {"question": "1 + 1?", "solution": "It is 2.", "answer": "2"},
    "evol_code": {"instruction": "Add.", "output": "```\na + b\n```"},
    "xlam": {"query": "Do f.", "tools": "[]", "answers": json.dumps(CALLS)},
    "messages": {"messages": CHAT},
}


def units(name: FormatName, **change: Any) -> Unit:
    return FORMATS[name].unit(Row("f.jsonl, line 1", COLUMNS[name] | change))


def exact(name: FormatName, sample: Sample, response: str) -> bool:
    return FORMATS[name].score(sample, response, Limits())["exact"]


@pytest.mark.parametrize("name", COLUMNS)
def test_the_reference_is_exact_and_another_answer_is_not(name: FormatName) -> None:
    for sample in units(name):
        assert exact(name, sample, sample.answer)
        assert not exact(name, sample, "I do not know: 3.")


@pytest.mark.parametrize("name", ["metamath", "gsm8k", "gsm_plus"])
def test_problems_are_scored_by_number(name: FormatName) -> None:
    [sample] = units(name)
    assert sample.messages == ({"role": "user", "content": "1 + 1?"},)
    for response in ("#### 2.0", "The answer is: 2", "$2."):
        assert exact(name, sample, response)


def test_answers_that_are_no_number_are_scored_by_text() -> None:
    [sample] = units("metamath", response=r"So. The answer is: \frac{1}{2}")
    assert exact("metamath", sample, r"The answer is: $\frac{1}{2}$.")
    assert not exact("metamath", sample, "The answer is: 1")
    [sample] = units("gsm_plus", answer="None")
    assert sample.answer == "It is 2.\n#### None"
    assert exact("gsm_plus", sample, "#### none")
    assert not exact("gsm_plus", sample, "#### 2")


def test_calls_are_scored_by_structure_in_any_order() -> None:
    [sample] = units("xlam", tools='[{"name": "f"}]')
    assert '[{"name": "f"}]' in sample.messages[0]["content"]
    assert json.loads(sample.answer) == CALLS
    score = FORMATS["xlam"].score
    for response, name, right in (
        (json.dumps(CALLS[::-1]), True, True),
        ("[f(a=1), g()]", True, True),
        (json.dumps([CALLS[0] | {"arguments": {"a": 2}}, CALLS[1]]), True, False),
        (json.dumps(CALLS[:1]), False, False),
    ):
        assert score(sample, response, Limits()) == {"name": name, "exact": right}


def test_a_conversation_has_a_sample_for_each_reply() -> None:
    first, second = units("messages")
    assert (first.messages, first.answer) == (tuple(CHAT[:2]), "Hello")
    assert (second.messages, second.answer) == (tuple(CHAT[:4]), "It is 42.")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("metamath", {"query": ""}, "'query' is blank"),
        ("evol_code", {"output": None}, "'output' holds None; write text"),
        ("gsm8k", {"answer": "2"}, "'answer' ends in '2'; end it in"),
        ("xlam", {"answers": "[f()]"}, "'answers' is no JSON"),
        ("xlam", {"answers": "[]"}, "'answers' holds no calls"),
        ("xlam", {"answers": '[{"name": "f"}]'}, "'answers' holds .*; give each"),
        ("xlam", {"tools": '{"f": 1}'}, "'tools' holds .*; write an array"),
        ("messages", {"messages": CHAT[:2]}, "'messages' has no reply"),
        ("messages", {"messages": CHAT[2:]}, "'messages' has no reply"),
        ("messages", {"messages": ["Hi"]}, "'messages' holds 'Hi'; give each a role"),
        ("messages", {"messages": [CHAT[0] | {"role": "x"}]}, "'messages' holds"),
        ("messages", {"messages": [CHAT[0] | {"content": ""}]}, "'messages' holds"),
    ],
)
def test_a_wrong_row_is_named(
    name: FormatName, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"f.jsonl, line 1: column {message}"):
        units(name, **change)


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_column_is_named(name: FormatName) -> None:
    with pytest.raises(
        DataError, match=r"line 1: column '\w+' is missing \(columns: x"
    ):
        FORMATS[name].unit(Row("f.jsonl, line 1", {"x": 1}))
