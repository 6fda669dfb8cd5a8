"""The spine's page, `docs/results/spine.md`, out of the figures of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefillshare.bench.markdown import commonest, opening, table
from prefillshare.bench.spine.losses import losses
from prefillshare.report import ROLES


def spine_page(
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    note: str = "",
) -> str:
    """Markdown with every figure of the run and how to make it again."""
    parts = [
        *opening("The spine", config, environment, command, note),
        _setup(config),
        "## Accuracy on held-out contexts\n",
        accuracy_table(results["accuracy"], ROLES),
        commonest(results["commonest"]),
        _paired(results["paired"]),
        "## Exact match by distance from the fact to the boundary (tokens)\n",
        _distances(results["exact_match_by_distance"]),
        "## Exact match by hand-off depth\n",
        _depths(results["exact_match_by_depth"]),
        f"## Served: {len(results['agents'])} agents hand each context on\n",
        _served(results, config["serving"]["link"]),
        "## What the served agents said, by hand-off depth\n",
        _chains(results["chains"]),
        "## Where sharing loses\n",
        losses(results),
    ]
    return "\n".join(parts)


def _setup(config: Mapping[str, Any]) -> str:
    test = config["test"]
    return (
        f"fp32. {_trained(config)}One seed, so intervals cover the test examples only. "
        f"Test: {test['contexts']} contexts of {_range(test)} records, "
        f"{test['questions']} questions over each; order numbers and surnames never "
        f"occur in training.\n{_module(config)}"
    )


def _trained(config: Mapping[str, Any]) -> str:
    """How the decoders that this run trained were; nothing if it trained none."""
    systems = {"shared", "own"} | ({"tuned"} if config["module"] else set())
    if not systems - set(config["trained"]):
        return ""
    train = config["train"]
    return (
        f"LoRA decoders, {config['steps']} steps, one context a step with "
        f"{train['questions']} questions over {_range(train)} records, learning "
        f"rate {config['learning_rate']}, boundary `{config['boundary']}`, seed "
        f"{config['seed']}. "
    )


def _module(config: Mapping[str, Any]) -> str:
    made = "".join(
        f"Decoders `{system}` come from `{folder}`; their model cards say how they "
        "were trained.\n"
        for system, folder in config["trained"].items()
    )
    if config["module"]:
        made += (
            f"`tuned` decoders read the cache of `{config['module']}`, a prefill "
            "module tuned on other tasks. They are the ones served on the shared "
            "prefill.\n"
        )
    return f"\n{made}" if made else ""


def _range(data: Mapping[str, Any]) -> str:
    low, high = data["records"], data["records_max"]
    return f"{low} to {high}" if high else str(low)


def accuracy_table(accuracy: Mapping[str, Any], roles: Mapping[str, str]) -> str:
    """NLL and exact match by system and task, in Markdown; `roles` explain systems."""
    lines = [
        "| system | task | NLL (nats/token) | 95 % | exact match | 95 % | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for system, tasks in accuracy.items():
        for task, row in tasks.items():
            nll, exact = row["ci"]["nll"], row["ci"]["exact_match"]
            lines.append(
                f"| {system}: {roles[system]} | {task} | {row['nll']:.3f} | "
                f"{nll[0]:.3f}–{nll[1]:.3f} | {row['exact_match']:.1%} | "
                f"{exact[0]:.1%}–{exact[1]:.1%} | {row['n']} |"
            )
    note = (
        "Exact match: greedy decoding yields the reference token for token. Intervals: "
        "95 %, over contexts.\n"
    )
    return "\n".join(lines) + "\n\n" + note + _fields_table(accuracy)


def _fields_table(accuracy: Mapping[str, Any]) -> str:
    """Accuracy of every field of JSON answers; nothing where no answer has fields."""
    rows = {
        f"{system}, {task}": row["fields"]
        for system, tasks in accuracy.items()
        for task, row in tasks.items()
        if "fields" in row
    }
    names = list(dict.fromkeys(name for fields in rows.values() for name in fields))
    if not names:
        return ""
    cells = (
        [title, *(f"{fields[n]:.1%}" if n in fields else "–" for n in names)]
        for title, fields in rows.items()
    )
    return (
        "\nBy field: every token of its value is the most likely one, given the "
        f"reference before it.\n\n{table(['system, task', *names], cells)}"
    )


def _paired(paired: Mapping[str, Any]) -> str:
    lines = [
        f"- {name.replace('_', ' ')}, {task}: {x['mean']:+.3f} nats "
        f"({x['low']:+.3f} to {x['high']:+.3f})"
        for name, tasks in paired.items()
        for task, x in tasks.items()
    ]
    return "Paired differences of NLL:\n\n" + "\n".join(lines) + "\n"


def _distances(by_distance: Mapping[str, Any]) -> str:
    cells: dict[tuple[int, int], dict[str, str]] = {}
    columns = []
    for system, tasks in by_distance.items():
        for task, rows in tasks.items():
            columns.append(f"{system}, {task}")
            for row in rows:
                key = (row["from"], row["to"])
                text = f"{row['exact_match']:.0%} (n {row['n']})"
                cells.setdefault(key, {})[columns[-1]] = text
    lines = [
        "| distance | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for (low, high), row in sorted(cells.items()):
        figures = " | ".join(row.get(column, "–") for column in columns)
        lines.append(f"| {low}–{high} | {figures} |")
    return "\n".join(lines) + "\n"


def _depths(by_depth: Mapping[str, Any]) -> str:
    depths = sorted(
        {
            row["depth"]
            for tasks in by_depth.values()
            for rows in tasks.values()
            for row in rows
        }
    )
    lines = [
        "| system, agent | " + " | ".join(f"depth {depth}" for depth in depths) + " |",
        "|---|" + "---|" * len(depths),
    ]
    for system, tasks in by_depth.items():
        for task, rows in tasks.items():
            cells = {r["depth"]: f"{r['exact_match']:.0%} (n {r['n']})" for r in rows}
            figures = " | ".join(cells.get(depth, "–") for depth in depths)
            lines.append(f"| {system}, {task} | {figures} |")
    return "\n".join(lines) + "\n"


def _served(results: Mapping[str, Any], link: Mapping[str, Any] | None) -> str:
    ttft, spread = results["ttft_seconds"], results["ttft_range_seconds"]
    lines = [
        "| | shared prefill | one prefill per model |",
        "|---|---|---|",
    ]
    turns = results["ttft_by_turn_seconds"]
    rows = {
        "contexts prefilled": [str(results["prefills"][s]) for s in ttft],
        "prompt tokens computed": [str(results["prefilled_tokens"][s]) for s in ttft],
        "time to first token, median (range), s": [
            f"{ttft[s]:.2f} ({spread[s]['min']:.2f}–{spread[s]['max']:.2f})"
            for s in ttft
        ],
    }
    for turn, agent in enumerate(results["agents"]):
        label = f"of which agent {turn + 1} ({agent}), median, s"
        rows[label] = [f"{turns[s][turn]:.2f}" for s in ttft]
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in rows.items()]
    text = (
        f"\n{results['served_contexts']} contexts, prompts of up to "
        f"{results['served_prompt_tokens']} tokens; both systems on this machine, in "
        f"turn, each with a prefix cache. {carriage(results, link)}\n"
    )
    return "\n".join(lines) + "\n" + text


def carriage(results: Mapping[str, Any], link: Mapping[str, Any] | None) -> str:
    """How KV moved, how much of it, and how fast; `link` as it was configured."""
    sealed = results["bytes_sealed"] == results["bytes_moved"]
    way = "on loopback" if link is None else f"across {_emulated(link)}"
    return (
        f"The shared prefill module's KV moved over TCP {way}, "
        f"{'encrypted (AES-256-GCM)' if sealed else 'with checksums, not encrypted'}: "
        f"{results['bytes_moved']:,} bytes at {results['transfer_gbps']:.2f} Gbit/s. "
        f"One prefill per model moved {results['bytes_moved_by_own']:,} bytes."
    )


def _emulated(link: Mapping[str, Any]) -> str:
    rate = link["rate_gbps"]
    jitter = link["jitter_seconds"]
    return (
        f"an emulated link of {f'{rate:g} Gbit/s' if rate else 'no set rate'}, "
        f"{1e3 * link['delay_seconds']:g} ms one way"
        f"{f' and up to {1e3 * jitter:g} ms more' if jitter else ''} "
        "(no losses, no congestion control)"
    )


def _chains(chains: Mapping[str, Any]) -> str:
    columns = ["system", "depth", "agent", "right", "95 %", "right given what was said"]
    columns += ["95 %", "inherited mistakes", "chain right so far", "n"]
    rows = [
        [
            system,
            str(row["depth"]),
            row["agent"],
            *_with_interval(row, "right"),
            *_with_interval(row, "given"),
            f"{row['inherited']:.0%}",
            f"{row['chain']:.0%}",
            str(row["n"]),
        ]
        for system, depths in chains.items()
        for row in depths
    ]
    note = (
        "\nEvery agent got what the agents before it generated. Marked by structure. "
        "Right: what a chain without a mistake would have said. Given what was said: "
        "what follows from the case file and the earlier answers, right or wrong; an "
        "inherited mistake is an answer that follows, but is not right. Intervals: "
        "95 %, over chains.\n"
    )
    return table(columns, rows) + note


def _with_interval(row: Mapping[str, Any], key: str) -> tuple[str, str]:
    low, high = row["ci"][key]
    return f"{row[key]:.0%}", f"{low:.0%}–{high:.0%}"
