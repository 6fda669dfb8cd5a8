"""What trackers are told: read back from TensorBoard's files, and by a tracker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prefillshare.cli import main
from prefillshare.config import load_config
from prefillshare.errors import ConfigError
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.metrics import StepLog
from prefillshare.training.reporting import tracker_names
from prefillshare.training.settings import RunSettings, TrainSettings
from tests.training.test_trainer import ignore, settings


class Recorder(GeneralTracker):
    """Keeps what it is told."""

    name = "recorder"
    requires_logging_directory = False
    runs: list[Recorder] = []

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.config: dict[str, Any] = {}
        self.steps: list[int | None] = []
        self.finished = False
        self.runs.append(self)

    @property
    def tracker(self) -> Recorder:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.steps.append(step)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """The runs of a tracker that is asked for as `wandb`."""
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])
    monkeypatch.setattr(Recorder, "runs", [])
    return Recorder.runs


def events(output: Path) -> EventAccumulator:
    (folder,) = (output / "logs").iterdir()
    return EventAccumulator(str(folder)).Reload()


def cut_and_resume(run: TrainSettings) -> None:
    class Killed(Exception):
        pass

    def die(entry: StepLog) -> None:
        if entry.step == 5:
            raise Killed

    with pytest.raises(Killed):
        decoder_trainer(run).run(die)
    decoder_trainer(run).run(ignore)


def test_tensorboard_has_every_step_of_the_log_once_also_after_resuming(
    tiny_directory: Path, tmp_path: Path
) -> None:
    cut_and_resume(settings(tiny_directory, tmp_path, report_to="tensorboard"))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    read = events(tmp_path)
    for name in ("loss", "learning_rate", "tokens"):
        logged = [(e.step, e.value) for e in read.Scalars(name)]
        assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6]
        assert [v for _, v in logged] == pytest.approx([e[name] for e in log])
    speed = [e["tokens"] / e["seconds"] for e in log]
    told = [e.value for e in read.Scalars("tokens_per_second")]
    assert told == pytest.approx(speed)


def test_a_resumed_run_continues_the_trackers_run(
    tiny_directory: Path, tmp_path: Path, recorded: list[Recorder]
) -> None:
    run = settings(tiny_directory, tmp_path / "one", report_to=["wandb", "none"])
    cut_and_resume(run)
    decoder_trainer(settings(tiny_directory, tmp_path / "two", report_to="wandb")).run(
        ignore
    )
    cut, resumed, other = recorded
    assert cut.steps == [1, 2, 3, 4, 5]
    assert resumed.steps == [4, 5, 6]
    assert cut.options == resumed.options != other.options
    assert cut.finished and resumed.finished
    assert cut.config["lora.rank"] == 2
    assert resumed.config == {}


def test_nothing_is_reported_unless_asked(tiny_directory: Path, tmp_path: Path) -> None:
    decoder_trainer(settings(tiny_directory, tmp_path, steps=1)).run(ignore)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["decoder", "metrics.jsonl"]


def test_a_tracker_that_is_missing_stops_the_run_before_it_starts(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_available_trackers", [])
    run = settings(tiny_directory, tmp_path / "run", report_to=["comet_ml", "wandb"])
    with pytest.raises(ConfigError, match="pip install comet-ml wandb"):
        decoder_trainer(run).run(ignore)
    assert not run.output.exists()


def test_a_tracker_that_does_not_start_is_named(
    tiny_directory: Path,
    tmp_path: Path,
    recorded: list[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: Recorder) -> None:
        raise RuntimeError("nobody is logged in")

    monkeypatch.setattr(Recorder, "start", start)
    run = settings(tiny_directory, tmp_path, report_to="wandb")
    with pytest.raises(ConfigError, match="wandb. does not start: nobody is logged in"):
        decoder_trainer(run).run(ignore)


def test_names_are_checked_and_come_from_overrides(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names tensorbord; known .*tensorboard"):
        tracker_names("tensorbord")
    overrides = [f"model={tmp_path}", f"output={tmp_path}", "report_to=[tensorboard]"]
    assert load_config(RunSettings, None, overrides).report_to == ["tensorboard"]
    assert tracker_names(["tensorboard", "tensorboard", "none"]) == ["tensorboard"]


def test_the_help_of_train_mentions_what_is_reported_and_uploaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    for word in ("report_to", "push_to_hub", "hub_private", "model card", "resume"):
        assert word in said
