"""The command as a whole, at sizes that take no time, and its page."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path

import pytest
from matplotlib.patches import Rectangle

from prefillshare.bench.transfer import entrants as who
from prefillshare.bench.transfer.entrants import entrants
from prefillshare.bench.transfer.experiment import run_transfer
from prefillshare.bench.transfer.found import Found
from prefillshare.bench.transfer.page import transfer_page
from prefillshare.bench.transfer.plot import transfer_plot
from prefillshare.bench.transfer.ratios import LIMITS
from prefillshare.bench.transfer.settings import TransferBenchSettings
from prefillshare.bench.transfer.specs import ONE_CORE, SHAPES, Shape
from prefillshare.bench.transfer.targets import judged
from prefillshare.cli import main
from prefillshare.config import load_config
from prefillshare.errors import ConfigError, PrefillShareError
from tests.bench.transfer.conftest import InProcess

PUBLISHED = Path(__file__).resolve().parents[3] / "docs" / "results" / "transfer.json"
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
    monkeypatch.setattr(who, "near", in_process.run)
    out, page, secret = tmp_path / "o.json", tmp_path / "p.md", tmp_path / "python"
    command = ["bench", "transfer", "--config", str(CONFIG), "--json", str(out)]
    command += ["--page", str(page), "--peers", str(tmp_path), "--note", "a quiet hour"]
    sizes = small.model_dump(exclude_defaults=True) | {"sockets": []}
    sizes |= {"ciphers": [], "checksums": [], "ours": [{"name": "checksum"}]}
    for key, value in (sizes | {"pythons.nixl": str(secret)}).items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    assert main(command) == 0
    results = json.loads(out.read_text())["results"]
    ran = [row for row in results["rows"] if "not_run" not in row]
    assert {row["peer"] for row in ran} == {"prefillshare"}
    assert len(ran) == len(small.ours) * 6 and all(row["verified"] for row in ran)
    absent = {row["peer"] for row in results["rows"] if "not_run" in row}
    assert absent == {"socket", "mooncake", "nixl"}
    assert len(results["measurements"]) == 2 * len(ran)
    text = page.read_text()
    assert "a quiet hour" in text and "Model:" not in text
    assert "![the figures above](p.svg)" in text
    drawn = transfer_plot(results).axes
    (contiguous,) = (row for row in ran if row["shape"] == "contiguous")
    (bar,) = (each for each in drawn[0].patches if isinstance(each, Rectangle))
    assert bar.get_width() == pytest.approx(contiguous["gbps"]["median"] / 8)
    titles = [axes.get_title(loc="left") for axes in drawn]
    assert titles[:3] == ["contiguous", "scattered", "small"]
    assert "mooncake, tuned: not run: the folder of --peers has no moon" in text
    assert str(tmp_path) not in text and "peers=FOLDER" in text
    figures = out.read_text()
    assert str(tmp_path) not in figures and '"NIXL_PYTHON"' in figures
    assert "delayed: not asked for" in text and "## Files" not in text


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
    assert set(settings.shapes) == set(SHAPES)
    labels = {each.label for each in entrants(settings)}
    known = {*labels, "own contiguous", "own grouped", *LIMITS.values()}
    for target in (each for part in settings.targets.values() for each in part):
        assert fnmatch.filter(known, target.other)
        assert fnmatch.filter(labels, target.ours or "prefillshare, checksum")


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_can_be_asked_for_alone(shape: Shape) -> None:
    """By whom, at the shipped configuration."""
    settings = load_config(TransferBenchSettings, CONFIG, [f"shapes=[{shape}]"])
    peers = {each.peer for each in entrants(settings)}
    alone = {"link": {"linkemu"}, "memory": {"prefillshare"}}
    alone |= {"handover": {"prefillshare", "memcpy"}}
    alone |= {"sequential": {"prefillshare", "fio"}}
    pairs = {"prefillshare", "socket"}
    known = pairs | {"mooncake", "nixl"}
    one_core = ONE_CORE if shape == "contiguous" else set()
    few = shape in ("small", "grouped", "delayed")
    assert peers == alone.get(shape, (pairs if few else known) | one_core)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("total_bytes", 100_000, "no multiple of blocks of 65536 bytes"),
        ("small_blocks", 1 << 20, "4294967296 bytes exceed total_bytes 1073741824"),
        ("sockets", [{"name": "a"}, {"name": "a"}], "one name"),
        ("small_blocks", 99_999, "409595904 bytes of small blocks are no whole blocks"),
        ("scattered_block_bytes", 256, "256 bytes hold no whole keys of 512 bytes"),
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
    monkeypatch.setattr(who, "near", lambda *_: wrong)
    with pytest.raises(PrefillShareError, match="checksum: other bytes arrived"):
        run_transfer(small)


def test_all_parts_have_a_section_with_figures_and_targets(tmp_path: Path) -> None:
    """The whole command with real processes, at sizes that take little time."""
    out, page = tmp_path / "o.json", tmp_path / "p.md"
    sizes = {
        "total_bytes": 1 << 20,
        "rounds": 1,
        "small_blocks": 64,
        "latency_samples": 5,
        "loads": ["idle"],
        "ours": [{"name": "checksum"}, {"name": "agent", "agent": True}],
        "sockets": [{"name": "bare, 4 streams", "streams": 4}],
        "links": [{"name": "x", "delay": 0.001}],
        "link_seconds": 0.1,
        "fio": [],
        "programs": [],
        "delayed": {"rates": [1e9], "round_trip": 0.002},
        "memory": {"total_bytes": 1 << 21, "arena_bytes": 1 << 20},
        "folder": str(tmp_path),
    }
    command = ["bench", "transfer", "--config", str(CONFIG)]
    command += ["--json", str(out), "--page", str(page)]
    for key, value in sizes.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    assert main(command) == 0
    results = json.loads(out.read_text())["results"]
    assert {row["shape"] for row in results["rows"]} == set(SHAPES)
    transports = {row["transport"] for row in results["rows"]}
    assert transports == {"tcp", "shm", "file", "memory", "none"}
    text = page.read_text()
    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(sections) == 13 and "## Not run" not in sections
    parts = {each["part"] for each in results["targets"] if each["ratio"]}
    assert parts >= {"rates", "small", "delayed", "link", "handover", "memory"}
    assert 'folder="DISK"' in text and str(tmp_path) not in text


def test_the_page_names_wins_losses_and_targets() -> None:
    targets = [
        {"shape": "contiguous", "other": "mooncake, *", "ratio": 1.4},
        {"shape": "contiguous", "other": "nixl, *", "ratio": 2.0},
    ]
    settings = TransferBenchSettings.model_validate({"targets": {"rates": targets}})
    found = [
        ratio("mooncake, default", 1.1, 1.5, 1.6),
        ratio("mooncake, tuned", 0.8, 0.9, 0.95),
        ratio("socket, bare", 0.9, 1.0, 1.1),
    ]
    results = {"rows": [], "ratios": found, "targets": judged(settings, found)}
    config = settings.model_dump(mode="json")
    text = transfer_page(results, config, ENVIRONMENT, "prefillshare bench transfer")
    assert "Won: rate, contiguous, beside mooncake, default (1.50)." in text
    assert "Lost: rate, contiguous, beside mooncake, tuned (0.90)." in text
    assert "Even: rate, contiguous, beside socket, bare (1.00)." in text
    assert "Targets: 1 of 2 are met, 1 were not measured." in text
    assert "| mooncake, default | 1.50 (1.10–1.60) | at least 1.4 | met |" in text
    assert "| mooncake, tuned | 0.90 (0.80–0.95) | at least 1.4 | **not met** |" in text
    assert "| nixl, * | – | at least 2 | not measured |" in text
    assert "A grant to write is for one transfer." in text


def ratio(other: str, low: float, middle: float, high: float) -> dict[str, object]:
    return {
        "ours": "prefillshare, checksum",
        "other": other,
        "shape": "contiguous",
        "direction": "write",
        "case": None,
        "measure": "gbps",
        "ratio": {"min": low, "median": middle, "max": high},
    }


def test_a_page_says_what_handing_on_takes_by_itself() -> None:
    found = json.loads(PUBLISHED.read_text())
    rows = {
        row["settings"]["name"]: row
        for row in found["results"]["rows"]
        if (row["peer"], row["shape"], row.get("case")) == ("socket", "latency", "idle")
    }
    bare, handed = rows["bare, 1 stream"], rows["bare, handed on"]
    text = transfer_page(
        found["results"], found["config"], found["environment"], "command"
    )
    told = (
        f"A write that a bare socket does in {bare['p50_us']:.0f} µs (p99 "
        f"{bare['p99_us']:.0f}) takes {handed['p50_us']:.0f} µs (p99 "
        f"{handed['p99_us']:.0f}) where threads read"
    )
    assert told in text
