"""Accuracy by depth of chains that were really said."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from prefillshare.bench.spine.chains import chain_accuracy
from prefillshare.bench.spine.page import _chains
from prefillshare.bench.spine.settings import SpineSettings
from prefillshare.tasks.casefile import CHAIN, INVOICING, chain_answers, generate

CASES = [generate("test", seed, records=5, questions=1) for seed in range(4)]
AGENTS = [agent.name for agent in CHAIN]


def said(*, wrong: int) -> list[str]:
    """Right answers, but in `wrong` of the chains a total that is handed on."""
    texts = []
    for i, case in enumerate(CASES):
        record = case.questions[0].record
        chain, total = chain_answers(record), record.quantity * record.price
        if i < wrong:
            chain[1] = INVOICING.answer(record, total=total + 1)
            chain[2] = chain[2].replace(f"is {total} ", f"is {total + 1} ")
        texts += chain
    return texts


def test_a_mistake_is_counted_where_it_was_made_and_where_it_was_inherited() -> None:
    rows = chain_accuracy(CASES, AGENTS, said(wrong=1))
    assert [row["agent"] for row in rows] == AGENTS
    assert [row["depth"] for row in rows] == [1, 2, 3, 4]
    assert [row["right"] for row in rows] == [1.0, 0.75, 0.75, 1.0]
    # The checker overlooks the wrong total.
    assert [row["given"] for row in rows] == [1.0, 0.75, 1.0, 0.75]
    assert [row["inherited"] for row in rows] == [0.0, 0.0, 0.25, 0.0]
    assert [row["chain"] for row in rows] == [1.0, 0.75, 0.75, 0.75]
    low, high = rows[1]["ci"]["right"]
    assert low < 0.75 < high and rows[1]["n"] == 4


def test_the_page_shows_every_depth() -> None:
    rows = chain_accuracy(CASES, AGENTS, said(wrong=2))
    text = _chains({"shared": rows})
    assert "| shared | 3 | letter | 50% | " in text
    assert " | 50% | 50% | 4 |" in text  # inherited, and the chain so far


@pytest.mark.parametrize("agent", ["judge", "cook"])
def test_who_cannot_stand_in_a_chain_is_refused_before_training(agent: str) -> None:
    message = f"{agent} cannot stand in a chain; these can: shipping"
    with pytest.raises(ValidationError, match=message):
        SpineSettings(agents=["shipping", agent])
