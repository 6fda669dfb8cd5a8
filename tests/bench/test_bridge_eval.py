"""`prefillshare bridge eval` on tiny models: the rows, and their page."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prefillshare.bench.bridge.experiment import BridgeEvalSettings
from prefillshare.bench.bridge.summaries import _REQUEST, Summariser
from prefillshare.cli import main
from prefillshare.evals.recovery import recovery
from prefillshare.evals.runner import DISTANCES
from prefillshare.models.loading import load_model, load_tokenizer
from prefillshare.models.tiny import save_tiny_model
from tests.words import word_tokenizer

CASES = {"kind": "casefile", "agent": "shipping", "records": 6, "questions": 2}


@pytest.mark.timeout(240)
def test_rows_lie_between_own_prefill_and_no_context(
    tiny_directory: Path, tmp_path: Path
) -> None:
    target = save_tiny_model(
        tmp_path / "target", layers=3, hidden=96, dtype=torch.float64
    )
    word_tokenizer().save_pretrained(target)
    bridge, fitted = tmp_path / "bridge", tmp_path / "fitted.json"
    inspected = tmp_path / "inspected.json"
    summaries = tmp_path / "kept" / "summaries.json"
    fit: dict[str, Any] = {"model": tiny_directory, "decoder_model": target}
    fit |= {"output": bridge}
    fit |= {
        "dtype": "float64",
        "layers": 1,
        # Random models gain nothing from any context.
        "recovered": "null",
        "share": "null",
        "tasks": json.dumps([{**CASES, "contexts": 4}]),
    }
    arguments = ["bridge", "fit", "--json", str(fitted)]
    for key, value in fit.items():
        arguments += ["--set", f"{key}={value}"]
    assert main(arguments) == 0
    shared = {"bridge": str(bridge)}
    experiment = {
        "title": "A bridge in small",
        "model": str(tiny_directory),
        "output": str(tmp_path / "runs"),
        "decoder": {
            "steps": 2,
            "dtype": "float64",
            "learning_rate": 0.01,
            "decoder_model": str(target),
        },
        "tasks": [
            {
                "train": {**CASES, "contexts": 2},
                "test": [{**CASES, "contexts": 4, "seed": 1000}],
            }
        ],
        "systems": {
            "own": {"train": {"prefill": "own"}},
            "bridged": {"train": shared},
            "floor": {"train": {"prefill": "own"}, "task": {"with_context": False}},
            "text": {
                "train": {"prefill": "own"},
                "task": {"summaries": str(summaries)},
            },
        },
    }
    pair = {"name": "tiny", "own": "own", "bridged": "bridged", "no_context": "floor"}
    config, out, page = (tmp_path / name for name in ("e.yaml", "out.json", "page.md"))
    arguments = ["bridge", "inspect", "--json", str(inspected)]
    for key, value in fit.items():
        arguments += ["--set", f"{key}={value}"]
    assert main(arguments) == 0
    pair["text"] = "text"
    pairs = [{**pair, "fitted": str(fitted), "inspected": str(inspected)}]
    about = {"experiment": experiment, "pairs": pairs, "summary_tokens": 3}
    config.write_text(yaml.safe_dump(about))
    arguments = ["bridge", "eval", "--config", str(config), "--page", str(page)]
    assert main([*arguments, "--json", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    rows = {row["metric"]: row for row in results["rows"] if row["distance"] is None}
    assert set(rows) == {"exact_match", "nll"}
    (test,) = results["systems"]["own"]
    sides = {"own_prefill": "own", "bridged": "bridged", "no_context": "floor"}
    for key, system in sides.items():
        figures = results["systems"][system][test]
        assert rows["nll"][key] == pytest.approx(figures["nll"]["mean"])
    # Two case files to train on and four to test were summed up, each once.
    written = json.loads(summaries.read_text())
    assert len(written["texts"]) == 6 and written["writer"]["tokens"] == 3
    handed = results["systems"]["text"][test]["nll"]["mean"]
    assert rows["nll"]["text_hand_off"] == pytest.approx(handed)
    assert handed != pytest.approx(rows["nll"]["own_prefill"])
    figures = json.loads(fitted.read_text())["results"]
    for name in ("bridge_parameters", "fit_seconds"):
        assert rows["nll"][name] == figures[name]
    assert rows["nll"]["recovered"] == pytest.approx(_recovered(tmp_path / "runs"))
    # Facts near the boundary and far from it have rows of their own.
    near = [row for row in results["rows"] if row["distance"] is not None]
    assert near and all(row["text_hand_off"] is None for row in near)
    stretches = {tuple(row["distance"]) for row in near}
    assert len(stretches) > 1 and stretches <= set(pairwise(DISTANCES))
    text = page.read_text()
    assert f"| {rows['nll']['bridged']:.3f} |" in text
    cost = json.loads(inspected.read_text())["results"]["hand_off"]
    assert rows["nll"]["hand_off"] == cost and f"{cost['speedup']:.1f}x" in text
    assert "## At the last step" in text and "A bridge in small" in text


def _recovered(output: Path) -> float | None:
    """Out of the kept runs."""
    losses = []
    for system in ("own", "bridged", "floor"):
        run = json.loads((output / "runs" / system / "seed0" / "run.json").read_text())
        (scores,) = run["finals"].values()
        losses.append([scores["nll"]])
    own, bridged, floor = losses
    clusters = [0, 0, 1, 1, 2, 2, 3, 3]
    share = recovery(own, bridged, floor, clusters, losses=True).share
    return None if share is None else share.mean


def test_a_summary_is_what_the_module_says_of_a_context(tiny_directory: Path) -> None:
    tokenizer = load_tokenizer(tiny_directory)
    model: Any = load_model(tiny_directory, torch.float32)
    written = Summariser(tiny_directory, 12).write("order 417: lamp, Lyon")
    messages = [
        {"role": "system", "content": "order 417: lamp, Lyon"},
        {"role": "user", "content": _REQUEST},
    ]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    said = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert written == str(tokenizer.decode(said, skip_special_tokens=True)).strip()


def test_a_pair_names_systems_that_there_are() -> None:
    experiment: dict[str, Any] = {
        "title": "none",
        "output": "runs",
        "decoder": {},
        "tasks": [{"train": CASES, "test": [CASES]}],
        "systems": {"own": {}},
    }
    pair = {"name": "p", "own": "own", "bridged": "bridged", "no_context": "own"}
    with pytest.raises(
        ValueError, match="pair 'p' names bridged, which is none of own"
    ):
        BridgeEvalSettings.model_validate({"experiment": experiment, "pairs": [pair]})
