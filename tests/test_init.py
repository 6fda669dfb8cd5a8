"""`prefillshare init`: from the hub, and what stands in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefillshare.cli import main


def test_a_model_of_the_hub_is_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, wanted = tmp_path / "snapshot", tmp_path / "models" / "large"
    snapshot.mkdir()
    asked: list[str] = []

    def download(repository: str, allow_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns and "*.bin" not in allow_patterns
        asked.append(repository)
        return str(snapshot)

    monkeypatch.setattr("prefillshare.cli.init.snapshot_download", download)
    arguments = ["init", str(wanted), "--hub", "lab/large-8B"]
    # Done again, it finds what is there.
    assert main(arguments) == 0 and main(arguments) == 0
    assert wanted.resolve() == snapshot and asked == ["lab/large-8B"] * 2


def test_what_the_hub_refuses_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError("403: gated")

    monkeypatch.setattr("prefillshare.cli.init.snapshot_download", download)
    wanted = tmp_path / "large"
    assert main(["init", str(wanted), "--hub", "lab/large-8B"]) == 1
    assert "lab/large-8B cannot be had: 403: gated" in capsys.readouterr().err
    assert not wanted.exists()


def test_nothing_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    assert main(["init", str(tmp_path / "model")]) == 2
    assert "is something else already" in capsys.readouterr().err
