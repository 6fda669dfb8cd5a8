"""What is wrong in the answers that the checker and the judge see."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.tasks.base import Sample
from prefillshare.tasks.casefile import INVOICING, LETTER, SHIPPING, CaseFileTask

# All that these agents can say of a record.
FIELDS = {
    "shipping": {"order", "item", "town"},
    "invoicing": {"order", "quantity", "price", "total"},
    "letter": {"customer", "quantity", "item", "town", "total"},
}
AGENTS = {"shipping": SHIPPING, "invoicing": INVOICING, "letter": LETTER}


def samples(agent: str, contexts: int, **fields: Any) -> list[Sample]:
    task = CaseFileTask(agent, contexts=contexts, **{"records": 14, **fields})
    return [sample for unit in task.units("train") for sample in unit]


def verdict(sample: Sample) -> re.Match[str] | None:
    return re.fullmatch(r"wrong: (\w+) is (.+), not (.+)", sample.answer)


def assert_even(counts: Counter[Any]) -> None:
    """Each count within five standard deviations of an equal share."""
    n, share = counts.total(), 1 / len(counts)
    spread = (n * share * (1 - share)) ** 0.5
    assert all(abs(count - n * share) < 5 * spread for count in counts.values())


@pytest.mark.parametrize(
    ("depth", "checked"), [(2, "shipping"), (3, "invoicing"), (4, "letter")]
)
def test_a_checker_sees_every_field_wrong_equally_often(
    depth: int, checked: str
) -> None:
    every = samples("checking", 40, depths=(depth,))
    found = [match for match in map(verdict, every) if match]
    assert_even(Counter({"wrong": len(found), "right": len(every) - len(found)}))
    counts = Counter(match[1] for match in found)
    assert set(counts) == FIELDS[checked]
    assert_even(counts)


def test_a_checker_says_what_is_wrong() -> None:
    for sample in samples("checking", 12):
        if (found := verdict(sample)) is None:
            continue
        field, right, said = found.groups()
        agent = AGENTS[["shipping", "invoicing", "letter"][sample.depth - 2]]
        values = agent.form.parse(sample.messages[-1]["content"])
        assert values is not None
        values["total"] = values.get("total", values.get("billed", 0))
        assert str(values[field]) == said != right
        if field != "total":
            assert right in sample.messages[0]["content"]


def test_an_order_number_can_be_checked_against_the_case_file() -> None:
    wrong = 0
    for sample in samples("checking", 30, depths=(2,)):
        found = verdict(sample)
        if found is None or found[1] != "order":
            continue
        named = set(re.findall(r"order (\d+)", sample.messages[1]["content"]))
        assert named == {found[2], found[3]}
        context, call = sample.messages[0]["content"], sample.messages[-1]["content"]
        (line,) = re.findall(rf"order {found[3]}: .*", context)
        # Nothing of the order that was named wrongly fits: the number is the mistake.
        for value in json.loads(call)["arguments"].values():
            assert value == int(found[3]) or f" {value}," not in line
        wrong += 1
    assert wrong > 10


@pytest.mark.parametrize("agent", ["checking", "judge"])
def test_arithmetic_alone_shows_nothing_but_a_wrong_total(agent: str) -> None:
    for sample in samples(agent, 8):
        found = verdict(sample)
        if "total" in (sample.facts.get("field"), found[1] if found else None):
            continue
        text = " ".join(message["content"] for message in sample.messages[1:])
        for quantity, price, total in re.findall(r"(\d+) x (\d+) = (\d+)", text):
            assert int(quantity) * int(price) == int(total)


def test_a_judge_sees_every_pair_in_both_orders() -> None:
    every = samples("judge", 3)
    for one, two in zip(every[::2], every[1::2], strict=True):
        assert (one.answer, two.answer) == ("first", "second")
        a, b = (s.messages[1]["content"].split("\n")[1:] for s in (one, two))
        assert a[0].removeprefix("first: ") == b[1].removeprefix("second: ")
        assert a[1].removeprefix("second: ") == b[0].removeprefix("first: ")
        assert a[0] != b[0]
        assert one.facts["pair"] == two.facts["pair"]
        assert [s.facts["swapped"] for s in (one, two)] == [False, True]
        assert [s.facts["right"] for s in (one, two)] == ["first", "second"]
    pairs = Counter(sample.facts["pair"] for sample in every)
    assert set(pairs.values()) == {2}


def test_a_judge_sees_every_field_wrong_equally_often() -> None:
    pairs = samples("judge", 60)[::2]
    for judged in ("shipping", "invoicing"):
        wrong = Counter(
            sample.facts["field"]
            for sample in pairs
            if sample.facts["judged"] == judged
        )
        assert set(wrong) == FIELDS[judged]
        assert_even(wrong)
    for sample in pairs:
        agent = AGENTS[sample.facts["judged"]]
        right, other = (
            agent.form.parse(line.split(": ", 1)[1])
            for line in sample.messages[1]["content"].split("\n")[1:]
        )
        assert right is not None and other is not None
        differ = {field for field in right if right[field] != other[field]}
        # A wrong quantity or price brings the total that follows from it.
        assert differ - {"total"} == {sample.facts["field"]} - {"total"}


@given(seed=st.integers(0, 10_000), records=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_small_cases_have_mistakes_too(seed: int, records: int) -> None:
    sizes: dict[str, Any] = {"records": records, "questions": records, "seed": seed}
    judge = samples("judge", 2, **sizes)
    for sample in judge:
        first, second = sample.messages[1]["content"].split("\n")[1:]
        assert first.removeprefix("first: ") != second.removeprefix("second: ")
    for sample in samples("checking", 2, **sizes):
        found = verdict(sample)
        assert found is None or found[2] != found[3]
