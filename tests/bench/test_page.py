"""Tables of the spine's page."""

from __future__ import annotations

from typing import Any

from prefillshare.bench.spine.page import accuracy_table, carriage

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


MOVED = {
    "bytes_moved": 12345,
    "bytes_sealed": 12345,
    "bytes_moved_by_own": 0,
    "transfer_gbps": 0.876,
}


def test_how_kv_moved_is_said_as_it_was() -> None:
    link = {"rate_gbps": 1.0, "delay_seconds": 0.02, "jitter_seconds": 0.001}
    text = carriage(MOVED, link)
    assert "link of 1 Gbit/s, 20 ms one way and up to 1 ms more" in text
    assert "encrypted (AES-256-GCM): 12,345 bytes at 0.88 Gbit/s." in text
    text = carriage(MOVED, {**link, "rate_gbps": None, "jitter_seconds": 0.0})
    assert "link of no set rate, 20 ms one way (no losses" in text
    text = carriage({**MOVED, "bytes_sealed": 0}, None)
    assert "on loopback, with checksums, not encrypted: 12,345 bytes" in text
