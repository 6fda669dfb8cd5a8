"""The page of the judge experiment, `docs/results/judge.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefillshare.bench.judge.experiment import NEAR_CHANCE
from prefillshare.bench.markdown import opening, table

_TITLE = "Whether a judge changes its mind on a shared cache"
_SYSTEMS = {
    "base": "the base without fine-tuning, own prefill",
    "own": "own prefill",
    "naive": "that same judge on the base's cache",
    "shared": "cache-conditioned, on the base's cache",
    "tuned": "cache-conditioned, on the cache of a tuned prefill module",
    "retrained": "own prefill, trained again with another seed",
}


def judge_page(
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    note: str = "",
) -> str:
    """Markdown with every figure of the run and how to make it again."""
    parts = [
        *opening(_TITLE, config, environment, command, note),
        _setup(results, config),
        "## Verdicts\n",
        consistency_table(results["systems"]),
        *_near_chance(results),
        "## Against the judge with its own prefill, on the same samples\n",
        difference_table(results["systems"]),
        *(_more(name, more) for name, more in results["more_flips"].items()),
        *_many(results),
    ]
    return "\n".join(parts)


def _near_chance(results: Mapping[str, Any]) -> Iterator[str]:
    """Which judges may as well be guessing: their flips say nothing of sharing."""
    told = []
    for name in results["near_chance"]:
        mean, interval = _share(results["systems"][name]["accuracy"])
        told.append(f"`{name}` ({mean} right, {interval})")
    if told:
        yield (
            f"**Near chance: {', '.join(told)}.** The 95 % interval of its accuracy is "
            f"not above {NEAR_CHANCE:.0%}, where guessing has 50 %. Such a judge's "
            "verdicts hang on nothing in the context, so how many of them flip says "
            "little about sharing, and how few says nothing for it.\n"
        )


def _many(results: Mapping[str, Any]) -> Iterator[str]:
    """Three comparisons with the unshared judge each, and those with the control."""
    count = 3 * (len(results["systems"]) - 1) + len(results["more_flips"])
    yield (
        f"These are {count} comparisons at 95 % each, none corrected for the others: "
        "of twenty in which nothing differs, one is expected to look as if it did.\n"
    )


def _more(name: str, more: Mapping[str, float]) -> str:
    mean, low, high = (100 * more[key] for key in ("mean", "low", "high"))
    verdict = (
        "sharing flips more verdicts than training again does"
        if low > 0
        else "no more flips than training again makes were shown"
    )
    return (
        f"- `{name}` flips {mean:+.1f} points more verdicts than `retrained` (95 %: "
        f"{low:+.1f} to {high:+.1f}): {verdict}.\n"
    )


def _setup(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    train, test = config["train"], config["test"]
    settings = ", ".join(f"{key} {value}" for key, value in config["decoder"].items())
    return (
        f"Judges: {settings or 'all settings by default'}; {train['contexts']} "
        f"contexts of {_range(train)} records with {train['questions']} questions "
        f"each, in the same order for all{_control(config['control_seed'])}"
        f"{_module(config['module'])}. Test: {results['pairs']} pairs of a "
        "right and a wrong answer, each in both orders, over "
        f"{results['contexts']} contexts of {_range(test)} records. A verdict is the "
        "likelier of the two allowed answers. One seed a system, so intervals "
        "(95 %, over contexts) cover the test examples only.\n"
    )


def _control(seed: int | None) -> str:
    return "" if seed is None else f" but `retrained`, whose seed is {seed}"


def _module(module: str | None) -> str:
    return "" if module is None else f"; `tuned` reads the module {module}"


def _range(data: Mapping[str, Any]) -> str:
    low, high = data["records"], data["records_max"]
    return f"{low} to {high}" if high else str(low)


def consistency_table(systems: Mapping[str, Any]) -> str:
    """Accuracy and consistency of each system's verdicts, in Markdown."""
    figures = ("accuracy", "order_consistency", "both_right", "says_first")
    columns = ["judge", "right", "95 %", "same answer in both orders", "95 %"]
    columns += ["right in both", "95 %", 'says "first"', "95 %"]
    rows = (
        [
            f"{name}: {_SYSTEMS[name]}",
            *(cell for key in figures for cell in _share(row[key])),
        ]
        for name, row in systems.items()
    )
    note = (
        "\nBy chance half is right and half is consistent; a judge that looks at the "
        "place alone is right half the time and never consistent.\n"
    )
    return table(columns, rows) + note


def difference_table(systems: Mapping[str, Any]) -> str:
    """Flipped verdicts and paired differences from the unshared judge, in Markdown."""
    columns = ["judge", "flipped verdicts", "95 %", "accuracy, points", "95 %"]
    columns += ["consistency, points", "95 %"]
    rows = (
        [
            name,
            *_share(row["flips"]),
            *_points(row["accuracy_difference"]),
            *_points(row["consistency_difference"]),
        ]
        for name, row in systems.items()
        if name != "own"
    )
    note = (
        "\nJudges of two trainings differ in some verdicts whatever they read: how "
        "many, `retrained` says, where there is one.\n"
    )
    return table(columns, rows) + note


def _share(interval: Mapping[str, float]) -> tuple[str, str]:
    mean, low, high = (interval[key] for key in ("mean", "low", "high"))
    return f"{mean:.1%}", f"{low:.1%}–{high:.1%}"


def _points(interval: Mapping[str, float]) -> tuple[str, str]:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f}", f"{low:+.1f} to {high:+.1f}"
