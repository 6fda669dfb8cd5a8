"""Training speed beside TRL, on a tiny model: what is compared, its rows and page."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from prefillshare.bench.training.data import Scenario, generate
from prefillshare.bench.training.experiment import (
    TRAINERS,
    TrainingSpeedSettings,
    run_training_speed,
)
from prefillshare.bench.training.page import training_page
from prefillshare.cli import main
from prefillshare.config import load_config
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.models.tiny import save_tiny_model

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "bench" / "training.yaml"
SMALL = Scenario(name="small", prompt=6, response=3, examples=2, target_ratio=2.0)
SHARED = Scenario(name="shared", shared=40, prompt=4, response=3, examples=2)


@pytest.mark.timeout(240)
def test_both_trainers_learn_the_same_examples_and_the_rows_say_how_fast(
    tmp_path: Path,
) -> None:
    """An untrained decoder's prefill is the base's, so the losses agree.

    With next to no learning rate it stays untrained over all steps: then every step
    of both trainers is seen to read the same examples.
    """
    model = save_tiny_model(tmp_path / "model")
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    arguments = ["bench", "training", "--config", str(CONFIG), "--json", str(out)]
    arguments += ["--page", str(page), "--note", "a quiet hour"]
    scenarios = json.dumps([SMALL.model_dump(), SHARED.model_dump()])
    for change in (
        f"model={model}",
        "rounds=1",
        "steps=1",
        "threads=1",
        "learning_rate=1.0e-12",
        f"scenarios={scenarios}",
    ):
        arguments += ["--set", change]
    assert main(arguments) == 0
    results = json.loads(out.read_text())["results"]
    keys = {"scenario", "trainer", "tokens_per_second", "peak_memory_bytes", "ratio"}
    for i, scenario in enumerate((SMALL, SHARED)):
        rows = {each["trainer"]: each for each in results["rows"][4 * i : 4 * i + 4]}
        assert list(rows) == list(TRAINERS)
        ours = rows.pop("prefillshare")
        for row in (ours, *rows.values()):
            assert row.keys() == keys | {"spread"}
            assert row["scenario"] == scenario.name
            assert row["peak_memory_bytes"] > 50 << 20
        for row in rows.values():
            ratio = ours["tokens_per_second"] / row["tokens_per_second"]
            assert row["ratio"] == pytest.approx(ratio)
        faster = min(rows["trl"]["ratio"], rows["trl_checkpointed"]["ratio"])
        assert ours["ratio"] == faster
        one, *others = results["measurements"][4 * i : 4 * i + 4]
        for other in others:
            assert one["tokens"] == other["tokens"] == scenario.tokens_per_step
            assert one["losses"] == pytest.approx(other["losses"], rel=1e-4)
        assert len(one["losses"]) == 2
        assert one["losses"][0] != pytest.approx(one["losses"][1], rel=1e-4)
    text = page.read_text()
    assert "a quiet hour" in text and f"| {rows['trl']['ratio']:.2f} |" in text


@pytest.mark.parametrize(("ratio", "verdict"), [(2.1, "met"), (0.9, "**not met**")])
def test_the_page_says_which_targets_are_met_and_where_trl_is_faster(
    ratio: float, verdict: str
) -> None:
    rows = [
        {
            "scenario": "small",
            "trainer": trainer,
            "tokens_per_second": speed,
            "peak_memory_bytes": memory << 20,
            "ratio": ratio,
            "spread": {
                "tokens_per_second": [speed, speed],
                "peak_memory_bytes": [memory << 20] * 2,
            },
        }
        for trainer, speed, memory in (
            ("prefillshare", 100 * ratio, 90),
            ("trl", 100, 120),
            ("trl_checkpointed", 70, 80),
        )
    ]
    settings = TrainingSpeedSettings(scenarios=[SMALL])
    environment = dict.fromkeys(("commit", "torch", "transformers", "cpu_count", "cpu"))
    text = training_page(
        {"rows": rows, "trl": "1"}, settings.model_dump(), environment, "command"
    )
    assert f"at least 2 times TRL's speed: {ratio:.2f}, {verdict}" in text
    assert "peak memory no higher: 1.12 of TRL's, **not met**" in text
    assert ("TRL is faster here" in text) == (ratio < 1)


def test_examples_have_exact_counts_and_share_what_the_scenario_says() -> None:
    groups = generate(SHARED, 3, 200, seed=0)
    assert [len(group) for group in groups] == [2, 2, 2]
    prompts = [e.prompt.token_ids for group in groups for e in group]
    assert {len(prompt) for prompt in prompts} == {44}
    assert len({prompt[:40] for prompt in prompts}) == 1
    assert len(set(prompts)) == 6
    assert sum(e.tokens for e in groups[0]) == SHARED.tokens_per_step
    apart = generate(SMALL, 2, 200, seed=0)
    assert [len(group) for group in apart] == [1, 1, 1, 1]
    assert apart != generate(SMALL, 2, 200, seed=1)


def test_without_trl_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    settings = load_config(TrainingSpeedSettings, CONFIG, [])
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[bench\]'"):
        run_training_speed(settings, tmp_path)


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    settings = TrainingSpeedSettings(scenarios=[SMALL], rounds=1)
    with pytest.raises(PrefillShareError, match="prefillshare on small ended with"):
        run_training_speed(settings, tmp_path / "absent")
