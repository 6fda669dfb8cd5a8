"""The page of the training benchmark, `docs/results/training.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefillshare.bench.markdown import opening, table

_TITLE = "Training speed beside TRL's SFTTrainer"


def training_page(
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    note: str = "",
) -> str:
    """Markdown with every figure of the run, its targets, and how to make it again."""
    parts = [
        *opening(_TITLE, config, environment, command, note),
        _setup(results, config),
        "## Figures\n",
        _figures(results["rows"]),
        "## Targets\n",
        *(_verdicts(each, results["rows"]) for each in config["scenarios"]),
        "\n## How it was measured\n",
        _method(config),
    ]
    return "\n".join(parts)


def _setup(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    threads = config["threads"] or "torch's default number of"
    compiled = "compiled" if config["compile"] else "not compiled"
    return (
        f"TRL {results['trl']}; {threads} threads. fp32 "
        f"(products of matrices: `{config['matmul_precision']}`), {config['method']}, "
        f"AdamW, {compiled}. {config['rounds']} measurements of each trainer, "
        f"{config['steps']} timed steps each after "
        f"{config['warmup_steps']} that are not.\n"
    )


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = ["scenario", "trainer", "tokens/s, median (range)"]
    columns += ["peak memory, MiB (range)", "prefillshare's speed / this"]
    return table(columns, map(_cells, rows))


def _cells(row: Mapping[str, Any]) -> list[str]:
    speeds, peaks = (
        row["spread"]["tokens_per_second"],
        row["spread"]["peak_memory_bytes"],
    )
    low, high = (f"{peak / 2**20:,.0f}" for peak in peaks)
    return [
        row["scenario"],
        row["trainer"],
        f"{row['tokens_per_second']:.0f} ({speeds[0]:.0f}–{speeds[1]:.0f})",
        f"{row['peak_memory_bytes'] / 2**20:,.0f} ({low}–{high})",
        "1" if row["trainer"] == "prefillshare" else f"{row['ratio']:.2f}",
    ]


def _verdicts(scenario: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Speed against the faster TRL, and memory against the smaller."""
    name, target = scenario["name"], scenario["target_ratio"]
    peer = {r["trainer"]: r for r in rows if r["scenario"] == name}
    ours = peer["prefillshare"]
    smaller = min(peer[trl]["peak_memory_bytes"] for trl in ("trl", "trl_checkpointed"))
    memory = ours["peak_memory_bytes"] / smaller
    lines = [
        f"- {name}, peak memory no higher: {memory:.2f} of TRL's, {_met(memory <= 1)}"
    ]
    if target is not None:
        verdict = _met(ours["ratio"] >= target)
        speed = f"- {name}, at least {target:g} times TRL's speed: {ours['ratio']:.2f}"
        lines.insert(0, f"{speed}, {verdict}")
    if ours["ratio"] < 1:
        lines.append(f"- {name}: **TRL is faster here.**")
    return "\n".join(lines)


def _met(met: bool) -> str:
    return "met" if met else "**not met**"


def _method(config: Mapping[str, Any]) -> str:
    return (
        f"{_shapes(config)} Ids are random, and no example comes twice. Tokens are "
        "those of the data set, prompts and responses; every example counts its whole "
        "prompt, also where prefillshare computes a shared one once. In the "
        "shared scenario the timed steps prefill the context themselves: what the "
        "warm-up kept is thrown away.\n\n"
        "Both trainers read the same examples in the same order, with the same "
        "adapter, learning rate and batch; they took turns, each measurement in a "
        "fresh process; its peak memory is what was resident, or on a GPU what torch "
        "held there. TRL: equal lengths, "
        "so nothing is padded and packing has nothing to save (its padding-free "
        "attention needs a GPU kernel); fused language model head, fused AdamW; "
        "`trl` keeps activations, `trl_checkpointed` computes them again, as TRL does "
        "by default. Speed is compared with the faster of the two, memory with the "
        "smaller.\n\n"
        "`prefillshare` and TRL do not train the same thing: TRL's decoder prefills "
        "for itself and learns through its prompt, which costs a backward pass over "
        "it; `prefillshare` reads the frozen module's cache. `prefillshare_own` is the "
        "same trainer doing what TRL does: its speed beside TRL's is what packing and "
        "shared prefixes are worth, the rest is what the cache saves. What that costs "
        "in accuracy is on the other pages.\n"
    )


def _shapes(config: Mapping[str, Any]) -> str:
    return " ".join(
        f"{s['name']}: {s['examples']} examples a step, "
        + (f"{s['shared']} tokens that all begin with, then " if s["shared"] else "")
        + f"{s['prompt']} of prompt and {s['response']} of response."
        for s in config["scenarios"]
    )
