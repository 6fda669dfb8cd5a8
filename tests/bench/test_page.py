"""Tables of the spine's page."""

from __future__ import annotations

from typing import Any

from prefillshare.bench.spine.page import accuracy_table

FIGURES = {
    "nll": 0.5,
    "exact_match": 0.25,
    "ci": {"nll": [0.4, 0.6], "exact_match": [0.1, 0.4]},
    "n": 8,
}
ROLES = {"full": "own prefill"}


def tables(**tasks: Any) -> str:
    return accuracy_table({"full": tasks}, ROLES)


def test_fields_stand_in_a_table_of_their_own() -> None:
    fields = {"fields": {"name": 1.0, "arguments.town": 0.5}}
    other = {"fields": {"name": 0.75}}
    text = tables(shipping=FIGURES | fields, refund=FIGURES | other, letter=FIGURES)
    assert "| system, task | name | arguments.town |" in text
    assert "| full, shipping | 100.0% | 50.0% |" in text
    assert "| full, refund | 75.0% | – |" in text
    assert "| full, letter |" not in text


def test_text_answers_have_no_table_of_fields() -> None:
    assert "By field" not in tables(letter=FIGURES)
