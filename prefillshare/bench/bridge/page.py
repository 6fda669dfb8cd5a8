"""The page of a bridge's evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefillshare.bench.accuracy.page import accuracy_page
from prefillshare.bench.markdown import table

_NOTE = (
    "\nRecovered: (bridged - no context) / (own prefill - no context), with its 95 % "
    "interval over seeds and contexts; a dash where own prefill gains nothing certain "
    "over no context. Distance: tokens from the fact to the boundary. Text: own "
    "prefill of a summary that the prefill module wrote. Untrained: the share of a "
    "continuation's loss that is recovered within 64 tokens of the boundary, for the "
    "decoder's model as it comes. Hand-off: bridging 1,000 tokens against the "
    "decoder's own prefill of them, and the FLOPs of the weights that it saves.\n"
)


def bridge_page(
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    note: str = "",
) -> str:
    """What each bridge recovers, and below it the whole accuracy experiment."""
    columns = [
        "pair",
        "task",
        "distance",
        "metric",
        "own prefill",
        "bridged",
        "no context",
        "text",
    ]
    columns += [
        "recovered",
        "95 %",
        "untrained",
        "parameters",
        "fitted in, s",
        "hand-off",
    ]
    rows = table(columns, map(_cells, results["rows"]))
    lead = f"## What the bridges recover\n\n{rows}{_NOTE}"
    experiment = config["experiment"]
    return accuracy_page(results, experiment, environment, command, note, lead)


def _cells(row: Mapping[str, Any]) -> list[str]:
    form = "{:.1%}" if row["metric"] == "exact_match" else "{:.3f}"
    bounds = [form.format(row[key]) for key in ("own_prefill", "bridged", "no_context")]
    text = row["text_hand_off"]
    bounds.append("–" if text is None else form.format(text))
    share = ["–", "–"]
    if row["recovered"] is not None:
        low, high = row["ci"]
        share = [f"{row['recovered']:.0%}", f"{low:.0%} to {high:.0%}"]
    seconds, bare = row["fit_seconds"], row["untrained"]
    return [
        row["pair"],
        row["task"],
        _distance(row["distance"]),
        row["metric"],
        *bounds,
        *share,
        "–" if bare is None else f"{bare:.0%}",
        f"{row['bridge_parameters']:,}",
        "–" if seconds is None else f"{seconds:.0f}",
        _hand_off(row["hand_off"]),
    ]


def _distance(stretch: Sequence[int] | None) -> str:
    return "all" if stretch is None else f"{stretch[0]}–{stretch[1] - 1}"


def _hand_off(cost: Mapping[str, Any] | None) -> str:
    if cost is None:
        return "–"
    bridge, own = (cost["seconds"][way] for way in ("bridge", "own_prefill"))
    saved = 1 - cost["flops"]["bridge"] / cost["flops"]["own_prefill"]
    return (
        f"{cost['speedup']:.1f}x ({bridge['median'] * 1e3:.0f} ms for "
        f"{own['median'] * 1e3:.0f} ms; {saved:.0%} of FLOPs saved)"
    )
