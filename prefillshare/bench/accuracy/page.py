"""The page of an accuracy experiment, out of the figures of its runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from prefillshare.bench.accuracy.setup import made, missing, setup
from prefillshare.bench.markdown import commonest, opening, table


def accuracy_page(
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    note: str = "",
    lead: str = "",
) -> str:
    """Markdown with every figure of the experiment and how to make it again.

    `lead` stands before the tables.
    """
    tests = list(results["curves"])
    parts = [
        *opening(config["title"], config, environment, command, note),
        *_making(command),
        *setup(config),
        *missing(results["missing"]),
        *made(results["made"]),
        lead,
        "## At the last step\n",
        _finals(results["systems"]),
        commonest(results["commonest"]),
        *_verdicts(results["compare"], config["margin"]),
        *_answers(results["answers"]),
        *_answers_verdicts(results["compare_answers"], config["margin"]),
        "## Over training\n",
        _CURVES,
        *(_curve(test, results["curves"][test]) for test in tests),
        *_modules(results["modules"]),
        *_fields(results["systems"]),
        *_buckets(results["systems"], "by_distance", "distance in tokens", _range),
        *_buckets(results["systems"], "by_depth", "hand-off depth", _depth),
    ]
    return "\n".join(parts)


def _making(command: str) -> Iterator[str]:
    """What to run for the runs themselves, where `command` does not make them all."""
    every = re.sub(r" --set (make|only)=\S+", "", command)
    if every != command:
        yield f"That puts the page together. Its runs are made by `{every}`.\n"


_CURVES = (
    "Exact match (NLL), means over seeds, on the first test units; where not all of a "
    "system's seeds were scored at a step, those that were are named. Nothing was "
    "chosen by these: the figures above are those of the last step.\n"
)


def _finals(systems: Mapping[str, Any]) -> str:
    columns = ["test", "system", "exact match", "95 %", "by seed", "NLL", "95 %"]
    columns += ["ECE", "n"]
    rows = [
        [test, system, *_final(tests[test])]
        for test in {test: 0 for tests in systems.values() for test in tests}
        for system, tests in systems.items()
        if test in tests
    ]
    note = (
        "Exact match: greedy decoding yields the reference token for token. NLL: nats "
        "per response token. ECE: expected calibration error of the most likely "
        "tokens. Intervals cover seeds and test units (crossed); with one "
        "seed, units only.\n"
    )
    return table(columns, rows) + "\n" + note


def _final(row: Mapping[str, Any]) -> list[str]:
    exact, nll = row["exact_match"], row["nll"]
    return [
        f"{exact['mean']:.1%}",
        f"{exact['low']:.1%} to {exact['high']:.1%}",
        ", ".join(f"{100 * value:.1f}" for value in row["exact_match_by_seed"]),
        f"{nll['mean']:.3f}",
        f"{nll['low']:.3f} to {nll['high']:.3f}",
        f"{row['calibration_error']:.3f}" if "calibration_error" in row else "–",
        str(row["examples"]),
    ]


def _answers(answers: Mapping[str, Any]) -> Iterator[str]:
    if not answers:
        return
    yield "## Generated answers, marked by the task's scorer\n"
    yield (
        "Greedy, as they are served. The scorer reads structure where exact match asks "
        "for every token: a tool call, a number, a program's tests.\n"
    )
    rows = [
        [test, system, name, f"{x['mean']:.1%}", _ends(x), str(x["n"])]
        for system, tests in answers.items()
        for test, marks in tests.items()
        for name, x in marks.items()
    ]
    yield table(["test", "system", "mark", "right", "95 %", "n"], sorted(rows))


def _ends(interval: Mapping[str, Any]) -> str:
    low, high = interval["low"], interval["high"]
    return "–" if low is None else f"{low:.1%} to {high:.1%}"


def _answers_verdicts(
    compare: Sequence[Mapping[str, Any]], margin: float | None
) -> Iterator[str]:
    if not compare:
        return
    asked = "" if margin is None else f": non-inferior by {100 * margin:g} points?"
    yield f"Paired, by the scorer's marks{asked}\n"
    columns = ["test", "mark", "system − reference", "points", "90 %", "verdict"]
    yield table([*columns, "power", "seeds", "n"], map(_marked, compare))


def _marked(row: Mapping[str, Any]) -> list[str]:
    low, mean, high = (100 * row[key] for key in ("low", "difference", "high"))
    return [
        row["test"],
        row["mark"],
        f"{row['system']} − {row['reference']}",
        f"{mean:+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        row["verdict"] or "–",
        "–" if row["power"] is None else f"{row['power']:.0%}",
        ", ".join(map(str, row["seeds"])),
        str(row["examples"]),
    ]


def _verdicts(
    compare: Sequence[Mapping[str, Any]], margin: float | None
) -> Iterator[str]:
    if not compare:
        return
    if margin is None:
        yield "## Differences, paired\n"
        columns = ["test", "system − reference", "points of exact match", "90 %"]
        columns += ["discordance", "seeds", "NLL", "95 %"]
        rows = [_verdict(row) for row in compare]
        yield table(columns, ([*row[:4], row[5], *row[7:]] for row in rows))
        return
    yield f"## Non-inferior by {100 * margin:g} points of exact match?\n"
    columns = ["test", "system − reference", "points", "90 %", "verdict"]
    columns += ["discordance", "power", "seeds", "NLL", "95 %"]
    yield table(columns, map(_verdict, compare))
    yield (
        "Non-inferior: the lower end of the paired 90 % interval is above the margin "
        "(a one-sided test at 5 %). Discordance: the share of examples that one of the "
        "two gets right. Power: how likely this test finds a truly equal system "
        "non-inferior, at the spread over seeds and units that was seen. Where neither "
        "of the two is ever right there is nothing to judge.\n"
    )
    if len(compare) > 1:
        yield (
            f"These are {len(compare)} tests at 5 % each, none corrected for the "
            "others: of twenty systems that lag by the whole margin, one is expected "
            "to be called non-inferior.\n"
        )


def _verdict(row: Mapping[str, Any]) -> list[str]:
    exact, nll = row["exact_match"], row["nll"]
    low, mean, high = (100 * exact[k] for k in ("low", "difference", "high"))
    return [
        row["test"],
        f"{row['system']} − {row['reference']}",
        f"{mean:+.1f}",
        f"{low:+.1f} to {high:+.1f}",
        exact["verdict"] or "nothing to judge",
        f"{row['discordance']:.1%}",
        "–" if exact["power"] is None else f"{exact['power']:.0%}",
        ", ".join(map(str, row["seeds"])),
        f"{nll['mean']:+.3f}",
        f"{nll['low']:+.3f} to {nll['high']:+.3f}",
    ]


def _curve(test: str, curve: Mapping[str, Any]) -> str:
    steps = sorted({point["step"] for points in curve.values() for point in points})
    rows = []
    for system, points in curve.items():
        seeds = {seed for point in points for seed in point["seeds"]}
        cells = {point["step"]: _cell(point, seeds) for point in points}
        rows.append([system, *(cells.get(step, "–") for step in steps)])
    return table([test, *(f"step {step}" for step in steps)], rows)


def _cell(point: Mapping[str, Any], seeds: Set[int]) -> str:
    figures = f"{point['exact_match']:.0%} ({point['nll']:.3f})"
    if set(point["seeds"]) == seeds:
        return figures
    return f"{figures}, seed {', '.join(map(str, point['seeds']))}"


def _modules(modules: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    if not modules:
        return
    yield "## What tuning cost the prefill modules as ordinary models\n"
    yield "Perplexity on text; NLL of responses, in nats per token.\n"
    tests = list(modules["base"])
    rows = [
        [name, *(f"{figures[test]:.3f}" for test in tests)]
        for name, figures in modules.items()
    ]
    yield table(["module", *tests], rows)


def _fields(systems: Mapping[str, Any]) -> Iterator[str]:
    """A table for each test, a line for each field: there may be dozens."""
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    for system, tests in systems.items():
        for test, figures in tests.items():
            if "fields" in figures:
                found.setdefault(test, {})[system] = figures["fields"]
    if not found:
        return
    yield "## Accuracy by field of JSON answers\n"
    yield "Every token of the value is the most likely one, given the reference.\n"
    for test, by_system in found.items():
        names = dict.fromkeys(n for fields in by_system.values() for n in fields)
        rows = [
            [
                name,
                *(
                    f"{fields[name]:.1%}" if name in fields else "–"
                    for fields in by_system.values()
                ),
            ]
            for name in names
        ]
        yield table([test, *by_system], rows)


def _range(row: Mapping[str, Any]) -> str:
    return f"{row['from']}–{row['to']}"


def _depth(row: Mapping[str, Any]) -> str:
    return str(row["depth"])


def _buckets(
    systems: Mapping[str, Any], key: str, title: str, label: Any
) -> Iterator[str]:
    """Exact match by bucket, if there is more than one."""
    cells = {
        (test, system, label(row)): f"{row['exact_match']:.0%} (n {row['n']})"
        for system, tests in systems.items()
        for test, figures in tests.items()
        for row in figures[key]
    }
    columns = list(dict.fromkeys(column for _, _, column in cells))
    if len(columns) < 2:
        return
    yield f"## Exact match by {title}\n"
    rows = [
        [test, system, *(cells.get((test, system, c), "–") for c in columns)]
        for test, system in dict.fromkeys((test, system) for test, system, _ in cells)
    ]
    yield table(["test", "system", *columns], rows)
