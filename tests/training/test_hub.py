"""Results go to the hub, here a stub of it; a hub that refuses costs no result."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from prefillshare.cli import main
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.models.record import DecoderRecord
from prefillshare.training.decoders import decoder_trainer
from prefillshare.training.readable import prefill_trainer
from prefillshare.training.settings import PrefillSettings, TrainSettings
from tests.training.hub import TOKEN, Hub
from tests.training.test_trainer import TASK, ignore, settings


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()
        thread.join()


def pushed(directory: Path, output: Path, **changes: object) -> TrainSettings:
    fields = {"steps": 1, "push_to_hub": "lab/reader", **changes}
    return settings(directory, output, **fields)


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in files}


def test_a_finished_decoder_is_uploaded_whole_and_private(
    tiny_directory: Path, tmp_path: Path, hub: Hub
) -> None:
    saved = decoder_trainer(pushed(tiny_directory, tmp_path)).run(ignore)
    assert hub.files == {"lab/reader": contents(saved)}
    assert "adapter_model.safetensors" in hub.files["lab/reader"]
    assert hub.private == {"lab/reader": True}


def test_the_command_says_where_the_result_went(
    tiny_directory: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {
        "model": tiny_directory, "output": tmp_path, "dtype": "float64", "steps": 1,
        "push_to_hub": "lab/reader", "task": json.dumps(TASK.model_dump()),
    }  # fmt: skip
    overrides = [word for k, v in run.items() for word in ("--set", f"{k}={v}")]
    assert main(["train", "--in-process", *overrides]) == 0
    assert "uploaded to lab/reader" in capsys.readouterr().out
    hub.accepts = 0
    assert main(["train", "--in-process", *overrides]) == 1
    assert "by hand: hf upload lab/reader" in capsys.readouterr().err


def test_a_repository_of_ones_own_is_replaced_and_may_be_public(
    tiny_directory: Path, tmp_path: Path, hub: Hub
) -> None:
    run = pushed(tiny_directory, tmp_path, push_to_hub="mine", hub_private=False)
    decoder_trainer(run).run(ignore)
    hub.files.clear()
    decoder_trainer(run).run(ignore)
    assert list(hub.files) == ["anna/mine"]
    assert hub.private == {"anna/mine": False}


def test_several_decoders_go_to_a_repository_each(
    tiny_directory: Path, tmp_path: Path, hub: Hub
) -> None:
    tasks = [TASK, TASK.model_copy(update={"agent": "invoicing"})]
    run = pushed(tiny_directory, tmp_path, task=None, tasks=tasks)
    decoder_trainer(run).run(ignore)
    for name in ("shipping", "invoicing"):
        there = hub.files[f"lab/reader-{name}"]
        assert there == contents(tmp_path / name / "decoder")


def test_a_tuned_prefill_module_is_uploaded(
    tiny_directory: Path, tmp_path: Path, hub: Hub
) -> None:
    run = PrefillSettings(
        model=tiny_directory, output=tmp_path, dtype="float64", steps=1,
        tasks=[TASK], push_to_hub="lab/module",
    )  # fmt: skip
    module = prefill_trainer(run).run(ignore)
    assert hub.files == {"lab/module": contents(module)}


def test_a_failed_upload_keeps_the_result_and_says_how_to_go_on(
    tiny_directory: Path, tmp_path: Path, hub: Hub
) -> None:
    hub.accepts = 1
    tasks = [TASK, TASK.model_copy(update={"agent": "invoicing"})]
    run = pushed(tiny_directory, tmp_path, task=None, tasks=tasks)
    with pytest.raises(PrefillShareError) as caught:
        decoder_trainer(run).run(ignore)
    left = tmp_path / "invoicing" / "decoder"
    assert f"{left} is saved, but was not uploaded" in str(caught.value)
    by_hand = f"by hand: hf upload lab/reader-invoicing {left} . --private"
    assert str(caught.value).endswith(by_hand)
    assert DecoderRecord.load(left).name == "invoicing"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no token", "nothing can be uploaded: .*log in by `hf auth login`"),
        ("wrong token", "Invalid user token"),
        ("read-only token", "the token may only read; use one that may write"),
        ("offline mode", "nothing can be uploaded"),
        ("no network", "nothing can be uploaded: .*Connection refused"),
        ("no repository", "lab/a/b.*choose another name"),
    ],
)
def test_what_would_not_be_uploaded_is_not_trained(
    tiny_directory: Path,
    tmp_path: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    message: str,
) -> None:
    run = pushed(tiny_directory, tmp_path / "run")
    match case:
        case "no token":
            monkeypatch.delenv("HF_TOKEN")
            monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        case "wrong token":
            monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        case "read-only token":
            hub.role = "read"
        case "offline mode":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        case "no network":
            with Hub() as closed:
                monkeypatch.setattr(constants, "ENDPOINT", closed.url)
        case "no repository":
            run = run.model_copy(update={"push_to_hub": "lab/a/b"})
    with pytest.raises(ConfigError, match=message):
        decoder_trainer(run).run(ignore)
    assert not run.output.exists()
