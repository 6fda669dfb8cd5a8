"""Spoken requests: the hold-out is honest and calls are compared by structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefillshare.errors import DataError
from prefillshare.tasks.base import Sample, Task
from prefillshare.tasks.toolcalls import ToolCalls

ALL = ["json", "name", "arguments", "exact"]
TOOLS = {"play": ["song", "year"], "weather": ["city"]}


def row(i: int) -> dict[str, Any]:
    if i % 2:
        return {"utterance": f"Play {i}", "name": "play", "arguments": {"song": str(i)}}
    return {"utterance": f"Rain in {i}?", "name": "weather", "arguments": {"city": "x"}}


@pytest.fixture
def task(tmp_path: Path) -> ToolCalls:
    return written(tmp_path, [row(i) for i in range(20)], held_out=5)


def written(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> ToolCalls:
    path = folder / "requests.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in rows))
    return ToolCalls(file=path, **settings)


def utterances(task: ToolCalls) -> tuple[list[str], list[str]]:
    """Of the training split and of the test split."""
    train, test = (
        [unit[0].messages[-1]["content"] for unit in task.units(split)]
        for split in ("train", "test")
    )
    return train, test


def test_it_is_a_task(task: ToolCalls) -> None:
    checked: Task = task
    assert (checked.name, checked.suffix) == ("tool_caller", "")


def test_the_splits_cover_the_file_and_share_nothing(task: ToolCalls) -> None:
    train, test = utterances(task)
    assert (len(train), len(test)) == (15, 5)
    assert {*train, *test} == {row(i)["utterance"] for i in range(20)}
    assert utterances(task) == (train, test)
    assert utterances(task.model_copy(update={"seed": 1}))[1] != test


def test_the_requests_of_some_tools_keep_their_sides_and_every_tool_is_listed(
    task: ToolCalls,
) -> None:
    some = task.model_copy(update={"only": ["play"]})
    for all_of, of_play in zip(utterances(task), utterances(some), strict=True):
        assert of_play == [said for said in all_of if said.startswith("Play")]
        assert 0 < len(of_play) < len(all_of)
    units = [*task.units("test"), *some.units("test")]
    assert len({unit[0].messages[0]["content"] for unit in units}) == 1


def test_a_tool_without_requests_is_named(task: ToolCalls) -> None:
    with pytest.raises(DataError, match="request for dance.*are play, weather"):
        task.model_copy(update={"only": ["dance"]}).units("train")


def test_an_utterance_that_occurs_twice_is_on_one_side(tmp_path: Path) -> None:
    rows = [row(i) for i in range(10)]
    again = [{**each, "utterance": f"  {each['utterance'].upper()} "} for each in rows]
    train, test = utterances(written(tmp_path, [*rows, *again], held_out=5))
    assert len({*map(str.casefold, train)} | {*map(str.casefold, test)}) == 10
    assert (len(train), len(test)) == (5, 5)


def test_the_context_is_one_short_list_of_tools(
    task: ToolCalls, tmp_path: Path
) -> None:
    contexts = {
        unit[0].messages[0]["content"]
        for split in ("train", "test")
        for unit in task.units(split)
    }
    assert contexts == {"Reply with one JSON tool call. Tools: play, weather."}
    listed = tmp_path / "tools.json"
    listed.write_text(json.dumps(TOOLS, indent=1))
    [sample] = task.model_copy(update={"tools": listed}).units("test")[0]
    assert sample.messages[0]["content"].endswith("play(song, year), weather(city).")


def test_the_reference_is_canonical_json_and_scores_full(task: ToolCalls) -> None:
    for unit in task.units("test"):
        [sample] = unit
        said = json.loads(sample.answer)
        assert sample.answer == json.dumps(said)
        assert list(said) == ["name", "arguments"]
        assert all(task.score(sample, sample.answer).values())


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ('{"arguments": {"b": "2", "a": 1}, "name": "f"}', ALL),
        ('Here: {"name": "f", "arguments": {"a": 1, "b": "2"}}.', ALL),
        ('{"name": "g", "arguments": {"a": 1, "b": "2"}}', ["json", "arguments"]),
        ('{"name": "f", "arguments": {"a": 1, "b": 2}}', ["json", "name"]),
        ('{"name": "f", "arguments": {"a": true, "b": "2"}}', ["json", "name"]),
        ('{"name": "f", "arguments": {"a": 1}}', ["json", "name"]),
        ('{"name": "f"}', ["json", "name"]),
        ('{"name": "f", "arguments": {"a": 1, "b": "2"}, "c": 3}', ALL[:-1]),
        ('{"name": "f", "arguments": {"a": 1, "b": "2"}', []),
        ("f(a=1, b='2')", []),
    ],
)
def test_a_call_is_marked_by_structure(
    response: str, right: list[str], task: ToolCalls
) -> None:
    sample = Sample((), "", '{"name": "f", "arguments": {"a": 1, "b": "2"}}')
    marks = task.score(sample, response)
    assert list(marks) == ALL
    assert [name for name, mark in marks.items() if mark] == right


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "line 3: column 'name' holds None"),
        ({"arguments": "x"}, "line 3: column 'arguments' holds 'x'; write an object"),
        ({"utterance": ""}, "line 3: column 'utterance' is blank"),
    ],
)
def test_a_wrong_row_is_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    rows = [row(i) for i in range(5)]
    rows[2] |= change
    task = written(tmp_path, rows, held_out=1)
    with pytest.raises(DataError, match=message):
        [task.units(split) for split in ("train", "test")]


def test_too_few_rows_and_unlisted_tools_are_refused(
    task: ToolCalls, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="20 distinct .* hold out fewer than 20"):
        task.model_copy(update={"held_out": 20}).units("test")
    listed = tmp_path / "tools.json"
    listed.write_text('{"play": []}')
    with pytest.raises(DataError, match="is 'weather'; list it in .*tools.json"):
        task.model_copy(update={"tools": listed}).units("test")


def test_without_context_only_the_utterance_is_gone(task: ToolCalls) -> None:
    bare = task.model_copy(update={"with_context": False})
    pairs = list(zip(task.units("test"), bare.units("test"), strict=True))
    for [shown], [hidden] in pairs:
        assert hidden.messages[0] == shown.messages[0]
        assert hidden.answer == shown.answer
    asked = [hidden.messages for _, [hidden] in pairs]
    assert asked == asked[:1] * len(asked)
