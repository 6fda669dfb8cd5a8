"""Progress where there is no terminal."""

from __future__ import annotations

import pytest

from prefillshare import report


def lines(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
) -> list[str]:
    """What is told of twelve steps of so many seconds."""
    now = 0.0
    monkeypatch.setattr(report, "monotonic", lambda: now)
    with report.progress("training", 12) as tick:
        for step in range(12):
            now += seconds
            tick(f"loss {step}")
    return capsys.readouterr().out.splitlines()


def test_quick_steps_are_told_by_tens_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = lines(monkeypatch, capsys, 0.1)
    assert told == ["training: 10/12 loss 9", "training: 12/12 loss 11"]


def test_slow_steps_are_told_each_half_minute_with_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = lines(monkeypatch, capsys, 20.0)
    assert [line.split()[1] for line in told] == [
        "2/12", "4/12", "6/12", "8/12", "10/12", "12/12"
    ]  # fmt: skip
    assert told[0] == "training: 2/12 loss 1, about 3 min left"
    assert told[-1] == "training: 12/12 loss 11"
