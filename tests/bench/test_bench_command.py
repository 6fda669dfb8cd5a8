"""What `prefillshare bench` does around a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.cli import bench, main


def measured(*_: Any) -> dict[str, Any]:
    return {"rows": [1.5]}


def broken(*_: Any) -> str:
    raise ZeroDivisionError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that is over at once, and whose page cannot be made."""
    made = bench._Benchmark(TransferBenchSettings, measured, broken)
    monkeypatch.setitem(bench._BENCHMARKS, "transfer", made)


def test_figures_outlive_a_page_that_cannot_be_made(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["bench", "transfer", "--json", str(out)]
    with pytest.raises(ZeroDivisionError):
        main([*arguments, "--page", str(tmp_path / "page.md")])
    assert json.loads(out.read_text())["results"] == {"rows": [1.5]}


def test_without_a_configuration_a_benchmark_takes_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []

    def page(_: Any, config: Any, __: Any, command: str, note: str) -> str:
        pages.append(command)
        assert config["rounds"] == 5 and config["programs"]
        return "page"

    made = bench._Benchmark(TransferBenchSettings, measured, page)
    monkeypatch.setitem(bench._BENCHMARKS, "transfer", made)
    assert main(["bench", "transfer", "--page", str(tmp_path / "page.md")]) == 0
    assert "configs/bench/transfer.yaml" in pages[0]


def test_a_page_that_is_a_folder_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    arguments = ["bench", "transfer", "--json", str(out), "--page", str(tmp_path)]
    assert main(arguments) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
    assert not out.exists()
