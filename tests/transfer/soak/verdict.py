"""Whether a transfer came to what it may come to, by both sides' account of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.transfer.soak.cases import Case, Fault, Harm, Layout, digest

Facts = dict[str, Any]
Result = str | None

# How the first try may end by what is done to it, None for well; and a second one.
FIRST: dict[Fault, set[Result]] = {
    "none": {None},
    "cancel": {"TransferClosed"},
    "timeout": {"TransferTimeout"},
    # What is written may have left before the lender hears of the transfer.
    "revoke": {"TransferEnded", "TransferRefused"},
    "race": {None, "TransferEnded", "TransferRefused"},
    # A busy machine may not begin before the lease is over.
    "expire": {"TransferEnded", "TransferRefused"},
    "late": {"TransferRefused"},
    "forged": {"TransferRefused"},
    "again": {None},
    "leave": {"TransferEnded", "TransferRefused"},
}
SECOND: dict[Fault, set[Result]] = {
    "cancel": {None},
    "timeout": {None},
    "forged": {None},
    "again": {"TransferRefused"},
}
# Besides that, what an end may be told of harm on the way, or to the other end.
_GONE: set[Result] = {None, "TransferBroken", "TransferEnded"}
HARMED: dict[Harm, set[Result]] = {
    "cut": _GONE,
    "flip data": _GONE | {"TransferIntegrityError"},
    "flip control": _GONE | {"TransferIntegrityError", "TransferRefused"},
    "kill lender": _GONE | {"TransferIdentityError", "TransferRefused"},
    "kill mover": _GONE,
}
OUTCOME = {"revoke": "revoked", "expire": "expired", "late": "revoked"} | {
    "leave": "revoked"
}


@dataclass
class Record:
    """What happened to one transfer; `moved` and `settled` are None if a side died."""

    case: Case
    harm: Harm
    tries: list[Result] = field(default_factory=list)
    moved: Facts | None = None
    settled: Facts | None = None

    @property
    def delivered(self) -> bool:
        """Whether the mover was told that all is in place."""
        return None in self.tries

    @property
    def harmed(self) -> bool:
        """Whether what was done on its way may have broken it."""
        return self.harm in HARMED


def complaints(record: Record) -> Iterator[str]:
    """What is wrong with it, in words."""
    layout = Layout(record.case)
    yield from _of_tries(record)
    if record.settled is not None:
        yield from _of_end(record, record.settled)
    yield from _of_bytes(record, layout)


def _of_tries(record: Record) -> Iterator[str]:
    fault, tries = record.case.fault, record.tries
    harmed = HARMED.get(record.harm, set())
    if tries and tries[0] not in FIRST[fault] | harmed:
        yield f"ended with {tries[0]}"
    if len(tries) > 1:
        allowed = SECOND[fault] | harmed
        # The word that a read is done may be lost; its grant is not used up then.
        unheard = record.harmed and record.case.access == "read"
        if tries[0] is None and not unheard:
            allowed -= {None}
        if tries[1] not in allowed:
            yield f"ended with {tries[1]} at the second try, {tries[0]} at the first"


def _of_end(record: Record, settled: Facts) -> Iterator[str]:
    case = record.case
    if len(settled["ends"]) != 1:
        yield f"the owner was told of {settled['ends']}"
        return
    outcome, note, moved = settled["ends"][0]
    if outcome == "done":
        told = bytes.fromhex(note).decode(), moved
        if told != (str(case.number), case.size):
            yield f"done says {told}"
        # The word that all is in place may be lost on the way back, not the reverse.
        unheard = record.harmed and case.access == "write"
        if not record.delivered and not (unheard or record.moved is None):
            yield "the owner was told that it is done, the mover was not"
    elif record.delivered:
        late = record.harmed or case.fault == "race"
        if case.access == "write" or not late:
            yield f"the mover was told that it is done, the owner that it is {outcome}"
    elif not record.harmed and outcome != OUTCOME.get(case.fault, "revoked"):
        yield f"the owner was told {outcome}"


def _of_bytes(record: Record, layout: Layout) -> Iterator[str]:
    reads = record.case.access == "read"
    target, source = (
        (record.moved, record.settled) if reads else (record.settled, record.moved)
    )
    before = layout.lender if reads else layout.mover
    if source is not None and source["whole"] != digest(before):
        yield "the source was changed"
    if target is None:
        return
    if target["rim"] != layout.rim(layout.target):
        yield "bytes beside the granted ones were changed"
    done = record.delivered
    if not reads and len(target["ends"]) == 1:
        done = done or target["ends"][0][0] == "done"
    if done and target["whole"] != digest(layout.after()):
        yield "other bytes than were granted are in place"
