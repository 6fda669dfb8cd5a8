"""The command line: choosing a command, its options, exit status and report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare import cli
from prefillshare.cli import Entry, main
from prefillshare.runtime import environment

TINY = """
import math
from pathlib import Path

from prefillshare.cli.command import Options, Report
from prefillshare.errors import ConfigError, DataError


def add_arguments(parser):
    parser.add_argument("--outcome", default="report")


def run(options: Options):
    outcome = options.extra.outcome
    if outcome == "data":
        raise DataError("example 3 is empty")
    if outcome == "config":
        raise ConfigError("seed is missing")
    if outcome == "interrupt":
        raise KeyboardInterrupt
    if outcome == "bug":
        raise RuntimeError("a defect")
    if outcome == "none":
        return None
    given = {"path": options.config, "set": options.overrides, **vars(options.extra)}
    return Report(config=given, results={"loss": 0.5, "worst": math.inf})
"""


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_command.py").write_text(TINY, encoding="utf-8")
    (tmp_path / "broken_command.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_command", raising=False)
    table = (
        Entry("tiny", "do little", "tiny_command"),
        Entry("broken", "fail on import", "broken_command"),
        Entry("absent", "not there", "absent_command"),
        Entry("deeper", "not there either", "absent_package.command"),
    )
    monkeypatch.setattr(cli, "COMMANDS", table)


def test_help_lists_the_commands_that_exist_and_imports_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "do little" in shown and "fail on import" in shown
    assert "not there" not in shown
    assert "tiny_command" not in sys.modules


def test_only_the_chosen_command_is_imported() -> None:
    assert main(["tiny"]) == 0
    assert "broken_command" not in sys.modules


def test_an_unknown_option_is_told_with_the_usage_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tiny", "--fast"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "usage: prefillshare tiny" in told and "--outcome" in told
    assert "unrecognized arguments: --fast" in told


def test_the_report_has_command_config_environment_and_results(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    common = ["--config", "c.yaml", "--set", "a=1", "--set", "b.c=2"]
    assert main(["tiny", *common, "--json", str(file)]) == 0
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document == {
        "command": "tiny",
        "config": {"path": "c.yaml", "set": ["a=1", "b.c=2"], "outcome": "report"},
        "environment": environment(),
        "results": {"loss": 0.5, "worst": None},
    }
    assert [each.name for each in tmp_path.glob(".figures*")] == []


def test_a_command_without_figures_reports_null(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert main(["tiny", "--outcome", "none", "--json", str(file)]) == 0
    assert json.loads(file.read_text(encoding="utf-8"))["results"] is None


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [
        ("data", 1, "prefillshare: error: example 3 is empty\n"),
        ("config", 2, "prefillshare: error: seed is missing\n"),
        ("interrupt", 130, "prefillshare: interrupted\n"),
    ],
)
def test_exit_status(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    outcome: str,
    status: int,
    message: str,
) -> None:
    file = tmp_path / "figures.json"
    file.write_text("before", encoding="utf-8")
    assert main(["tiny", "--outcome", outcome, "--json", str(file)]) == status
    assert capsys.readouterr().err == message
    assert file.read_text(encoding="utf-8") == "before"


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a defect"):
        main(["tiny", "--outcome", "bug"])


@pytest.mark.parametrize(
    "arguments", [[], ["unknown"], ["absent"], ["tiny", "--unknown"], ["tiny", "--set"]]
)
def test_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: prefillshare" in capsys.readouterr().err


def test_an_unusable_json_path_is_found_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for file in (tmp_path, tmp_path / "absent" / "figures.json"):
        assert main(["tiny", "--outcome", "bug", "--json", str(file)]) == 2
        assert f"--json {file}: name a file" in capsys.readouterr().err


def test_the_environment_is_found_without_importing_torch() -> None:
    found = environment()
    assert {"python", "torch", "transformers", "platform", "commit"} <= found.keys()
    assert found["cpu"] and found["cpu_count"]
    code = (
        "import sys; from prefillshare import cli\n"
        "from prefillshare.runtime import environment; environment()\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'transformers', 'pydantic'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: prefillshare" in done.stdout
