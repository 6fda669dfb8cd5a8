"""Spoken requests and the tool call that each means.

A file of rows `{"utterance": …, "name": …, "arguments": {…}}`, such as the SNIPS
requests (Coucke et al., arXiv 1805.10190). It has no split of its own: `held_out` of
its utterances, drawn by `seed`, are the test split. An utterance that occurs twice,
but for case and spacing, is kept once, so no test utterance is in the training split.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from prefillshare.config import Config
from prefillshare.errors import DataError
from prefillshare.tasks.base import NOT_SHOWN, Marks, Sample, Split, Unit
from prefillshare.tasks.rows import Row, read_rows
from prefillshare.tasks.scoring import Call, first_object, same_value


class ToolCalls(Config):
    """Every sample's context is one short list of the tools.

    Attributes:
        file: the requests, JSON lines.
        tools: a JSON object of every tool's argument names; with it the context lists
            those too.
        held_out: the size of the test split, in utterances.
        only: the tools whose requests are read, of either split; by default all. The
            context lists every tool all the same.
        with_context: without it the utterance is not shown: what can be guessed.
    """

    kind: Literal["toolcalls"] = "toolcalls"
    file: Path
    tools: Path | None = None
    held_out: int = Field(3000, ge=1)
    only: list[str] = []
    seed: int = 0
    name: str = "tool_caller"
    suffix: str = ""
    with_context: bool = True

    def units(self, split: Split) -> list[Unit]:
        """One sample a unit.

        Raises:
            DataError: a file is unusable, has too few utterances to hold out, or none
                for a tool of `only`.
        """
        requests = _distinct(read_rows(self.file))
        if self.held_out >= len(requests):
            raise DataError(
                f"{self.file}: has {len(requests)} distinct utterances, which leaves "
                f"none to train on; hold out fewer than {self.held_out}"
            )
        context = f"Reply with one JSON tool call. Tools: {self._tools(requests)}."
        random.Random(f"toolcalls/{self.seed}").shuffle(requests)
        held_out, rest = requests[: self.held_out], requests[self.held_out :]
        chosen = held_out if split == "test" else rest
        self._require_requests(chosen)
        wanted = [row for row in chosen if not self.only or _tool(row) in self.only]
        return [(self._sample(context, row),) for row in wanted]

    def _require_requests(self, rows: Sequence[Row]) -> None:
        there = {_tool(row) for row in rows}
        if missing := sorted(set(self.only) - there):
            raise DataError(
                f"{self.file}: has no request for {', '.join(missing)}, which `only` "
                f"names; there are {', '.join(sorted(there))}"
            )

    def score(self, sample: Sample, response: str) -> Marks:
        """By structure: is there a JSON object, and do name and arguments agree?"""
        wanted = first_object(sample.answer)
        said = first_object(response)
        marks = {
            key: wanted is not None
            and said is not None
            and key in said
            and same_value(said[key], wanted[key])
            for key in ("name", "arguments")
        }
        exact = same_value(said, wanted)
        return {"json": said is not None, **marks, "exact": exact}

    def _tools(self, requests: Sequence[Row]) -> str:
        names = {_tool(row) for row in requests}
        if self.tools is None:
            return ", ".join(sorted(names))
        listed = _argument_names(self.tools)
        for row in requests:
            if _tool(row) not in listed:
                raise row.error(
                    "name", f"is {_tool(row)!r}", f"list it in {self.tools}"
                )
        return ", ".join(f"{name}({', '.join(of)})" for name, of in listed.items())

    def _sample(self, context: str, row: Row) -> Sample:
        call = Call(_tool(row), row.get("arguments", dict))
        said = row.text("utterance").strip() if self.with_context else NOT_SHOWN
        return Sample(
            messages=(
                {"role": "system", "content": context},
                {"role": "user", "content": said},
            ),
            suffix=self.suffix,
            answer=call.text(),
        )


def _tool(row: Row) -> str:
    return row.text("name")


def _distinct(rows: Sequence[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(" ".join(row.text("utterance").casefold().split()), row)
    return list(first.values())


def _argument_names(path: Path) -> dict[str, list[Any]]:
    tools = read_rows(path)[0]
    return {name: tools.get(name, list) for name in sorted(tools.columns)}
