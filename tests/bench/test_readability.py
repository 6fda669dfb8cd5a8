"""The readability experiment in small: what is compared with what, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefillshare.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(240)
def test_every_system_is_trained_and_scored(
    tiny_directory: Path, tmp_path: Path
) -> None:
    config = ROOT / "configs" / "bench" / "readability.yaml"
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    arguments = ["bench", "readability", "--config", str(config)]
    arguments += ["--page", str(page), "--json", str(out), "--note", "a quiet hour"]
    small = {
        "model": tiny_directory,
        "prefill.output": tmp_path / "prefill",
        "prefill.steps": 2,
        "prefill.dtype": "float64",
        "decoder.output": tmp_path / "decoder",
        "decoder.steps": 3,
        "decoder.dtype": "float64",
        "evaluate_every": 2,
    }
    for i in range(6):
        small |= {f"prefill.tasks.{i}.contexts": 1, f"prefill.tasks.{i}.records": 8}
    for i in range(2):
        small |= {
            f"tasks.{i}.train.contexts": 2,
            f"tasks.{i}.train.records": 8,
            f"tasks.{i}.test.0.contexts": 1,
            f"tasks.{i}.test.0.records": 8,
        }
    for key, value in small.items():
        arguments += ["--set", f"{key}={value}"]
    assert main(arguments) == 0
    results = json.loads(out.read_text())["results"]
    (shipping, invoicing) = results["curves"]
    assert shipping.startswith("shipping") and invoicing.startswith("invoicing")
    last = set()
    for system in ("tuned", "untuned", "own", "tuned_own"):
        points = results["curves"][shipping][system]
        assert [point["step"] for point in points] == [2, 3]
        assert points[-1]["nll"] == results["final"][system][shipping]["nll"]
        last.add(round(points[-1]["nll"], 9))
        assert f"| {system}: " in page.read_text()
    # Four different pairs of prefill and decoder.
    assert len(last) == 4
    paired = results["paired"]["tuned_minus_own"][shipping]["nll"]["mean"]
    finals = [results["final"][s][shipping]["nll"] for s in ("tuned", "own")]
    assert paired == pytest.approx(finals[0] - finals[1])
    assert "a quiet hour" in page.read_text()
