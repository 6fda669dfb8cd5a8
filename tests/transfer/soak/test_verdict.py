"""A soak complains of whatever is not as it must be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prefillshare.transfer.base import Access
from tests.transfer.soak.cases import Case, Layout, digest
from tests.transfer.soak.verdict import Record, complaints

WRITE = Case(7, "write", 5000, 40, 3, False, "none")
READ = replace(WRITE, access="read")
DONE = [["done", b"7".hex(), 5000]]


def facts(layout: Layout, access: Access, *, moved: bool) -> dict[str, Any]:
    """What a side tells of its memory, `access` saying when it is the target."""
    if layout.access != access:
        before = layout.mover if access == "read" else layout.lender
        return {"whole": digest(before), "rim": ""}
    memory = layout.after() if moved else layout.target
    return {"whole": digest(memory), "rim": layout.rim(memory)}


def record(case: Case, tries: list[str | None], ends: list[list[Any]]) -> Record:
    """All as it should be, if the ends go with the tries."""
    layout = Layout(case)
    moved = facts(layout, "read", moved=None in tries)
    settled = facts(layout, "write", moved=None in tries)
    return Record(case, "none", tries, moved, {"ends": ends, **settled})


def test_a_layout_moves_all_bytes_and_no_others() -> None:
    for case in (READ, WRITE):
        layout = Layout(case)
        after = layout.after()
        assert (after != layout.target).sum() > 0.9 * case.size
        assert layout.rim(after) == layout.rim(layout.target)
        assert layout.goal[:, 1].sum() == layout.batch[:, 2].sum() == case.size


@pytest.mark.parametrize("case", [READ, WRITE])
def test_what_went_well_is_well(case: Case) -> None:
    assert not list(complaints(record(case, [None], DONE)))
    revoked = replace(case, fault="revoke", fed=True)
    ended = record(revoked, ["TransferEnded"], [["revoked", "", 0]])
    assert not list(complaints(ended))


@pytest.mark.parametrize("case", [READ, WRITE])
def test_an_error_that_nothing_caused_is_named(case: Case) -> None:
    found = record(case, ["TransferBroken"], [["revoked", "", 0]])
    assert list(complaints(found)) == ["ended with TransferBroken"]
    harmed = replace(found, harm="cut")
    assert not list(complaints(harmed))
    forged = replace(case, fault="forged")
    # A wrong capability must not do, and the right one must afterwards.
    first, second = "TransferRefused", "TransferRefused"
    assert list(complaints(record(forged, [None], DONE)))
    assert list(complaints(record(forged, [first, second], [["revoked", "", 0]])))
    assert not list(complaints(record(forged, [first, None], DONE)))


def test_a_grant_is_used_up_unless_the_word_of_it_was_lost() -> None:
    again, refused = replace(READ, fault="again"), "TransferRefused"
    assert not list(complaints(record(again, [None, refused], DONE)))
    assert list(complaints(record(again, [None, None], DONE)))
    harmed = replace(record(again, [None, None], DONE), harm="cut")
    assert not list(complaints(harmed))
    written = record(replace(WRITE, fault="again"), [None, None], DONE)
    assert list(complaints(replace(written, harm="cut")))


@pytest.mark.parametrize(
    ("ends", "complaint"),
    [
        ([], "the owner was told of []"),
        (DONE + DONE, "the owner was told of"),
        ([["done", b"8".hex(), 5000]], "done says ('8', 5000)"),
        ([["done", b"7".hex(), 4999]], "done says ('7', 4999)"),
        ([["revoked", "", 0]], "the owner that it is revoked"),
    ],
)
def test_an_owner_is_told_once_and_rightly(ends: list[Any], complaint: str) -> None:
    assert any(complaint in each for each in complaints(record(WRITE, [None], ends)))


@pytest.mark.parametrize("case", [READ, WRITE])
def test_what_was_not_delivered_is_not_done(case: Case) -> None:
    ended = record(replace(case, fault="cancel", fed=True), ["TransferClosed"], DONE)
    assert any("the mover was not" in each for each in complaints(ended))


@pytest.mark.parametrize("case", [READ, WRITE])
def test_memory_is_compared(case: Case) -> None:
    target = "moved" if case.access == "read" else "settled"
    source = "settled" if case.access == "read" else "moved"
    for side, key, complaint in (
        (target, "whole", "other bytes than were granted are in place"),
        (target, "rim", "bytes beside the granted ones were changed"),
        (source, "whole", "the source was changed"),
    ):
        found = record(case, [None], DONE)
        getattr(found, side)[key] = digest(Layout(case).mover[:9])
        assert list(complaints(found)) == [complaint]
