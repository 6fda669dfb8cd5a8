"""Questions to answer with calls of listed tools (xLAM, arXiv 2406.18518)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from prefillshare.tasks.base import Marks, Sample, Unit
from prefillshare.tasks.rows import Row
from prefillshare.tasks.scoring import Call, same_calls, tool_calls

_REQUEST = (
    "Answer with a JSON array of tool calls, each with name and arguments. Tools:"
)


def unit_of(row: Row) -> Unit:
    """A row of `query`, and of `tools` and `answers` as JSON text.

    Raises:
        DataError: a column is missing, is no JSON, or holds no calls.
    """
    answers = row.json("answers", list)
    calls = []
    for answer in answers:
        match answer:
            case {"name": str(name), "arguments": dict(arguments)}:
                calls.append(Call(name, arguments))
            case _:
                raise row.error(
                    "answers", f"holds {answer!r:.80}", "give each name and arguments"
                )
    if not calls:
        raise row.error("answers", "holds no calls", "give some or remove the row")
    return (asked(row.json("tools", list), row.text("query"), text_of(calls)),)


def score(sample: Sample, response: str) -> Marks:
    """Whether the response calls the same tools, and makes the same calls."""
    wanted, said = tool_calls(sample.answer), tool_calls(response)
    names = sorted(call.name for call in said) == sorted(call.name for call in wanted)
    return {"name": names, "exact": same_calls(said, wanted)}


def asked(tools: Sequence[Any], question: str, answer: str) -> Sample:
    """A question over a context that lists the tools."""
    context = f"{_REQUEST} {json.dumps(tools)}"
    return Sample(
        (
            {"role": "system", "content": context},
            {"role": "user", "content": question.strip()},
        ),
        suffix="",
        answer=answer,
    )


def text_of(calls: Sequence[Call]) -> str:
    """The canonical response: one JSON array."""
    return f"[{', '.join(call.text() for call in calls)}]"
