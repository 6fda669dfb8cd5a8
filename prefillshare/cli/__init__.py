"""The command line: `prefillshare COMMAND [--config FILE.yaml] [--set a.b=v] …`.

Exit status: 0 done, 1 failed, 2 wrong use or configuration, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from prefillshare.cli.command import (
    Command,
    Options,
    check_json_path,
    write_report,
)
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.runtime import environment, installed_version


class Entry(NamedTuple):
    """A command: its name, its line of help, and the module that is imported for it."""

    name: str
    help: str
    module: str


COMMANDS = (
    Entry(
        "init",
        "put the base model that the shipped configs name into models/base",
        "prefillshare.cli.init",
    ),
    Entry(
        "train",
        "fine-tune a decoder: wraps accelerate launch",
        "prefillshare.cli.train",
    ),
    Entry(
        "bridge",
        "map the prefill module's cache into another model's",
        "prefillshare.cli.bridge",
    ),
    Entry("eval", "evaluate decoders", "prefillshare.cli.eval"),
    Entry("serve", "serve prefill and decode workers", "prefillshare.cli.serve"),
    Entry(
        "keys",
        "make certificates, by which hosts know each other",
        "prefillshare.cli.keys",
    ),
    Entry("demo", "show a shared KV cache at work", "prefillshare.cli.demo"),
    Entry("bench", "run an experiment, write its page", "prefillshare.cli.bench"),
)
COMMON = ("command", "config", "overrides", "json")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Libraries' own progress bars would run into ours.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("prefillshare: interrupted\n")
        return 130
    except PrefillShareError as error:
        sys.stderr.write(f"prefillshare: error: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1


def _run(arguments: list[str]) -> int:
    entries = {entry.name: entry for entry in COMMANDS if _exists(entry.module)}
    # No option before the command takes a value, so the first word is the command.
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    module = None
    if chosen in entries:
        module = cast(Command, importlib.import_module(entries[chosen].module))
    parser, commands = _parser(entries, chosen, module)
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        # With the usage of the command, not that of all.
        commands[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    assert module is not None, "the parser lets only known commands through"
    options = Options(
        config=parsed.config,
        overrides=tuple(parsed.overrides),
        json=parsed.json,
        extra=argparse.Namespace(
            **{name: v for name, v in vars(parsed).items() if name not in COMMON}
        ),
    )
    if options.json is not None:
        check_json_path(options.json)
    # Before the work: a checkout may change while it runs.
    started = environment() if options.json is not None else {}
    report = module.run(options)
    if options.json is not None:
        write_report(options.json, parsed.command, started, report)
    return 0


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _parser(
    entries: dict[str, Entry], chosen: str | None, module: Command | None
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of the commands.

    Only the chosen command's has the arguments of its module.
    """
    parser = argparse.ArgumentParser(
        prog="prefillshare",
        description="One frozen prefill module, many decode modules, "
        "one shared KV cache.",
        allow_abbrev=False,
    )
    version = installed_version("prefillshare") or "(not installed)"
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for entry in entries.values():
        command = commands.add_parser(
            entry.name, help=entry.help, description=entry.help, allow_abbrev=False
        )
        _add_common(command)
        add_arguments = getattr(module, "add_arguments", None)
        if entry.name == chosen and add_arguments is not None:
            add_arguments(command)
    return parser, dict(commands.choices)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE.yaml", help="the configuration"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="a.b=v",
        help="override one value of the configuration; may be repeated",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures to FILE"
    )
