"""`prefillshare bridge …`: from the prefill module's cache to another model's."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prefillshare.bench.bridge.experiment import BridgeEvalSettings, run_bridge_eval
from prefillshare.bench.bridge.page import bridge_page
from prefillshare.cli.command import ROOT, Options, Report, command_line
from prefillshare.config import load_config
from prefillshare.models.smollm2 import smollm2_directory
from prefillshare.report import say, table
from prefillshare.runtime import environment
from prefillshare.training.bridges.continuation import SIDES
from prefillshare.training.bridges.ends import BridgeSettings
from prefillshare.training.bridges.fitting import fit
from prefillshare.training.bridges.inspection import inspect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with a bridge."""
    parser.add_argument(
        "what",
        choices=("fit", "inspect", "eval"),
        help="fit one in closed form; see how a decoder attends on what it makes; "
        "train decoders on it, and compare them with their own prefill",
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE.md",
        help="the page that eval writes (default: docs/results/bridge_CONFIG.md)",
    )


def run(options: Options) -> Report:
    """Do it, and print what came out."""
    if options.extra.what == "eval":
        return _evaluate(options)
    settings = load_config(BridgeSettings, options.config, options.overrides)
    if options.extra.what == "fit":
        results = fit(settings, say)
        _fit_table(results)
    else:
        results = inspect(settings, say)
        _cosine_table(results)
    return Report(settings.model_dump(mode="json"), results)


def _evaluate(options: Options) -> Report:
    settings = load_config(BridgeEvalSettings, options.config, options.overrides)
    began = environment()
    model = settings.experiment.model or smollm2_directory()
    report = Report(settings.model_dump(mode="json"), run_bridge_eval(settings, model))
    title = f"bridge_{options.config.stem}" if options.config else "bridge"
    page = options.extra.page or ROOT / "docs" / "results" / f"{title}.md"
    command = command_line("bridge eval", options)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(bridge_page(report.results, report.config, began, command))
    say(f"wrote {page}")
    return report


def _fit_table(results: dict[str, Any]) -> None:
    explained = results["explained"]
    if not explained["keys"]:
        say(f"layers {results['sources']} are passed on as they are: nothing is fitted")
        return
    rows = [
        [str(i), ", ".join(map(str, layers)), f"{keys:.3f}", f"{values:.3f}"]
        for i, (layers, keys, values) in enumerate(
            zip(results["sources"], explained["keys"], explained["values"], strict=True)
        )
    ]
    share = results["bridge_parameters"] / results["decoder_parameters"]
    say(
        f"{results['tokens']:,} tokens in {results['fit_seconds']:.0f} s; the bridge "
        f"has {share:.1%} of the decoder's parameters"
    )
    columns = ["layer", "made of", "keys", "values"]
    table("Variance explained, by layer of the decoder", columns, rows)


def _cosine_table(results: dict[str, Any]) -> None:
    cosine = results["cosine"]
    rows = [
        [str(i), f"{mean:.3f}", " ".join(f"{x:.2f}" for x in heads)]
        for i, (mean, heads) in enumerate(
            zip(cosine["layers"], cosine["heads"], strict=True)
        )
    ]
    title = f"Attention-output cosine, {cosine['all']:.3f} over all"
    table(title, ["layer", "mean", "by head"], rows)
    table(
        "Loss of the prompts' second half, nats a token, the first half read",
        ["tokens behind the boundary", "own prefill", "bridged", "no context"],
        [
            [f"{row['from']} to {row['to'] or 'the end'}"]
            + [f"{row[side]:.3f}" for side in SIDES]
            for row in results["continuation"]
        ],
    )
    _hand_off(results["hand_off"])


def _hand_off(cost: dict[str, Any]) -> None:
    bridge, own = (cost["seconds"][way]["median"] for way in ("bridge", "own_prefill"))
    share = cost["flops"]["bridge"] / cost["flops"]["own_prefill"]
    say(
        f"{cost['tokens']} tokens: {bridge * 1e3:.0f} ms to bridge, {own * 1e3:.0f} ms "
        f"for the decoder's model to prefill (medians of {cost['rounds']}, in turn): "
        f"{cost['speedup']:.1f} times as fast, with {share:.1%} of the FLOPs"
    )
