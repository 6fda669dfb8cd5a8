"""`prefillshare bridge` on tiny models, for the suites of bridges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from prefillshare.cli import main

TASK = {"kind": "casefile", "agent": "shipping", "contexts": 6, "records": 8}


def run(what: str, config: Path, *overrides: str) -> dict[str, Any]:
    """The results of one command."""
    out = config.with_suffix(".json")
    arguments = ["bridge", what, "--config", str(config), "--json", str(out)]
    for override in overrides:
        arguments += ["--set", override]
    assert main(arguments) == 0
    results: dict[str, Any] = json.loads(out.read_text())["results"]
    return results


def write_config(folder: Path, source: Path, target: Path) -> Path:
    config = folder / "bridge.yaml"
    fields: dict[str, Any] = {"model": str(source), "tasks": [TASK]}
    fields |= {"decoder_model": str(target), "output": str(folder / "bridge")}
    # Random models gain next to nothing from any context.
    fields |= {"dtype": "float64", "layers": 1, "recovered": None}
    fields |= {"share": None}
    config.write_text(yaml.safe_dump(fields))
    return config
