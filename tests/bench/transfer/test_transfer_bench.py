"""The command as a whole, at sizes that take no time, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefillshare.bench.transfer import experiment
from prefillshare.bench.transfer.experiment import entrants, run_transfer
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.page import transfer_page
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.cli import main
from prefillshare.config import load_config
from prefillshare.errors import ConfigError, PrefillShareError
from tests.bench.transfer.conftest import InProcess

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "bench" / "transfer.yaml"
ENVIRONMENT = {
    "commit": "abc",
    "torch": "2",
    "transformers": "5",
    "cpu_count": 2,
    "cpu": "X",
}


def test_the_command_writes_rows_and_a_page(
    small: TransferBenchSettings,
    in_process: InProcess,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(experiment, "run_pair", in_process.run)
    out, page, secret = tmp_path / "o.json", tmp_path / "p.md", tmp_path / "python"
    command = ["bench", "transfer", "--config", str(CONFIG), "--json", str(out)]
    command += ["--page", str(page), "--peers", str(tmp_path), "--note", "a quiet hour"]
    sizes = small.model_dump(exclude_defaults=True) | {"sockets": []}
    sizes["ours"] = [{"name": "checksum"}]
    for key, value in (sizes | {"pythons.nixl": str(secret)}).items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    assert main(command) == 0
    results = json.loads(out.read_text())["results"]
    ran = [row for row in results["rows"] if "not_run" not in row]
    assert {row["peer"] for row in ran} == {"prefillshare"}
    assert len(ran) == len(small.ours) * 5 and all(row["verified"] for row in ran)
    absent = {row["peer"] for row in results["rows"] if "not_run" in row}
    assert absent == {"socket", "mooncake", "nixl"}
    assert len(results["measurements"]) == 2 * len(ran)
    text = page.read_text()
    assert "a quiet hour" in text and "Model:" not in text
    assert "mooncake, tuned: not run: the folder of --peers has no moon" in text
    assert str(tmp_path) not in text and "peers=FOLDER" in text


def test_a_folder_is_for_the_transfer_benchmark_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "training", "--peers", "x"]) == 2
    assert "unknown key peers" in capsys.readouterr().err


def test_the_shipped_configuration_has_each_peer_as_it_comes_and_tuned() -> None:
    settings = load_config(TransferBenchSettings, CONFIG, [])
    names = {(each.peer, each.name) for each in settings.programs}
    assert names >= {(p, n) for p in ("mooncake", "nixl") for n in ("default", "tuned")}
    nixl = [each for each in settings.programs if each.peer == "nixl"]
    assert all(each.environment["UCX_TLS"] == "tcp" for each in nixl)
    labels = {each.label for each in entrants(settings)}
    for target in settings.targets:
        known = {*labels, "own contiguous"}
        assert any(label.startswith(target.other) for label in known)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("total_bytes", 100_000, "no multiple of blocks of 65536 bytes"),
        ("small_blocks", 1 << 20, "4294967296 bytes exceed total_bytes 1073741824"),
        ("sockets", [{"name": "a"}, {"name": "a"}], "one name"),
        ("programs", [{"peer": "pigeon"}], "pigeon"),
        ("slice", 1, "unknown key slice"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    key: str, value: object, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        load_config(TransferBenchSettings, None, [f"{key}={json.dumps(value)}"])


def test_other_bytes_than_were_sent_make_no_figures(
    small: TransferBenchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [Found(shape="contiguous", gbps=1, verified=False)]
    monkeypatch.setattr(experiment, "run_pair", lambda *_: wrong)
    with pytest.raises(PrefillShareError, match="checksum: other bytes arrived"):
        run_transfer(small)


def ratio(other: str, low: float, middle: float, high: float) -> dict[str, object]:
    return {
        "ours": "prefillshare, checksum",
        "other": other,
        "shape": "contiguous",
        "load": None,
        "measure": "gbps",
        "ratio": {"min": low, "median": middle, "max": high},
    }


def test_the_page_names_wins_losses_and_targets() -> None:
    targets = [
        {"shape": "contiguous", "other": "mooncake", "ratio": 1.4},
        {"shape": "contiguous", "other": "nixl", "ratio": 2.0},
    ]
    settings = TransferBenchSettings.model_validate({"targets": targets})
    found = [
        ratio("mooncake, default", 1.1, 1.5, 1.6),
        ratio("mooncake, tuned", 0.8, 0.9, 0.95),
        ratio("socket, bare", 0.9, 1.0, 1.1),
    ]
    results = {"rows": [], "ratios": found}
    config = settings.model_dump(mode="json")
    text = transfer_page(results, config, ENVIRONMENT, "prefillshare bench transfer")
    assert "Won: rate, contiguous, beside mooncake, default (1.50)." in text
    assert "Lost: rate, contiguous, beside mooncake, tuned (0.90)." in text
    assert "Even: rate, contiguous, beside socket, bare (1.00)." in text
    assert "1.4 × mooncake: 1.50 beside mooncake, default, met" in text
    assert "1.4 × mooncake: 0.90 beside mooncake, tuned, **not met**" in text
    assert "2 × nixl: not measured" in text
    assert "A grant to write is for one transfer." in text
