"""`prefillshare demo --quick` from end to end, and what its figures must satisfy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefillshare.bench.spine.page import spine_page
from prefillshare.cli import main


@pytest.mark.timeout(300)
def test_quick_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    fewer = ["--set", "serving.contexts=2", "--set", "serving.max_tokens=4"]
    link = ["--set", "serving.link={rate_gbps: 1, delay_seconds: 0.002}"]
    assert main(["demo", "--quick", "--json", str(out), *fewer, *link]) == 0
    written = json.loads(out.read_text())
    results = written["results"]
    # What was not overridden is the preset's, not the default.
    assert written["config"]["serving"]["records"] == 12
    for system in ("base", "full", "naive", "shared"):
        for task in ("shipping", "invoicing"):
            figures = results["accuracy"][system][task]
            assert figures["n"] == 16
            low, high = figures["ci"]["nll"]
            assert low <= figures["nll"] <= high
            assert 0 <= figures["exact_match"] <= 1
    for task in ("shipping", "invoicing"):
        assert results["paired"]["naive_minus_shared"][task]["low"] > 0
    # Two agents over two contexts: one prefill a context, against one a model.
    assert results["prefills"] == {"shared": 2, "own": 4}
    assert results["prefilled_tokens"]["shared"] < results["prefilled_tokens"]["own"]
    assert set(results["ttft_seconds"]) == {"shared", "own"}
    assert results["bytes_sealed"] == results["bytes_moved"] > 0
    assert results["bytes_moved_by_own"] == 0
    # Not faster than the link.
    assert 0 < results["transfer_gbps"] < 1
    turns = results["ttft_by_turn_seconds"]
    assert all(len(medians) == 2 for medians in turns.values())
    for system in ("shared", "own"):
        rows = results["chains"][system]
        assert [row["agent"] for row in rows] == ["shipping", "invoicing"]
        assert [row["n"] for row in rows] == [2, 2]
    out_text = capsys.readouterr().out
    assert "measured in this run" in out_text
    assert "not quality or speed" in out_text
    assert "full − shared" in out_text
    assert "across an emulated link of 1 Gbit/s" in " ".join(out_text.split())
    page = spine_page(
        results,
        written["config"],
        written["environment"],
        "the command",
        "a quiet hour",
    )
    for figure in (
        "an emulated link of 1 Gbit/s, 2 ms one way",
        f"encrypted (AES-256-GCM): {results['bytes_moved']:,} bytes at",
        "One prefill per model moved 0 bytes.",
        f"{results['accuracy']['naive']['invoicing']['nll']:.3f}",
        "| contexts prefilled | 2 | 4 |",
        "| own | 2 | invoicing | ",
        str(written["environment"]["commit"]),
        "a quiet hour",
    ):
        assert figure in page
