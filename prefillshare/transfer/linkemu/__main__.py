"""`python -m prefillshare.transfer.linkemu`: a link as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import selectors
import sys
from collections.abc import Sequence
from pathlib import Path

from prefillshare.config import load_config
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.lifeline import announce, follow_launcher
from prefillshare.transfer.linkemu.relay import LinkEmulator
from prefillshare.transfer.linkemu.shaper import LinkSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run until interrupted, or the launcher's end.

    Exit status: 1 if it cannot listen, 2 for wrong use.
    """
    arguments = _parser().parse_args(argv)
    host, _, port = arguments.target.rpartition(":")
    target = (host.strip("[]"), int(port) if port.isdecimal() else 0)
    try:
        if not all(target):
            raise ConfigError(
                f"the target is {arguments.target!r}; give HOST:PORT, as 127.0.0.1:8000"
            )
        settings = load_config(LinkSettings, arguments.config, arguments.set)
    except PrefillShareError as error:
        sys.stderr.write(f"linkemu: {error}\n")
        return 2
    try:
        with asyncio.Runner(loop_factory=_precise) as runner:
            runner.run(_run(settings, target, arguments.listen))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        sys.stderr.write(f"linkemu: port {arguments.listen}: {error}\n")
        return 1
    return 0


def _precise() -> asyncio.AbstractEventLoop:
    """A loop that waits to the microsecond, for a few hundred connections.

    Epoll, the usual one, waits for whole milliseconds, rounded up: a link would be
    half a millisecond longer each way.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _run(settings: LinkSettings, target: tuple[str, int], port: int) -> None:
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    follow_launcher(lambda: loop.call_soon_threadsafe(over.set))
    async with LinkEmulator(settings, target, port=port) as link:
        announce("link", f"tcp://127.0.0.1:{link.port}")
        await over.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prefillshare.transfer.linkemu",
        description="Pass TCP connections on as over a slow or long link. It shapes "
        "rate, delay, jitter and stalls; losses and congestion control it does not.",
    )
    parser.add_argument("target", help="HOST:PORT that connections are passed on to")
    parser.add_argument(
        "--listen", type=int, default=0, help="port; 0 takes a free one"
    )
    parser.add_argument("--config", type=Path, help="YAML: rate (bit/s), delay (s), …")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
