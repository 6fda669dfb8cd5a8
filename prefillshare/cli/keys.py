"""`prefillshare keys …`: an authority, and the certificates of hosts."""

from __future__ import annotations

import argparse
from pathlib import Path

from prefillshare.cli.command import Options
from prefillshare.errors import ConfigError
from prefillshare.report import say
from prefillshare.transfer.secure.authority import (
    CA_DAYS,
    HOST_DAYS,
    Issued,
    issue,
    make_authority,
)
from prefillshare.transfer.secure.contexts import read_identity
from prefillshare.transfer.secure.identity import PeerIdentity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to make, and of whom."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make an authority: ca.pem and ca.key")
    init.add_argument("folder", type=Path, metavar="DIR")
    init.add_argument("--days", type=int, default=CA_DAYS, help="valid for so long")
    host = actions.add_parser("issue", help="make a host's certificate and key")
    host.add_argument("folder", type=Path, metavar="DIR", help="of the authority")
    host.add_argument("--host", required=True, help="its name")
    host.add_argument("--site", required=True, help="the datacenter that it is in")
    host.add_argument("--region", required=True, help="of the site")
    host.add_argument("--days", type=int, default=HOST_DAYS, help="valid for so long")
    show = actions.add_parser("show", help="say whom a certificate names, until when")
    show.add_argument("file", type=Path, metavar="FILE.pem")


def run(options: Options) -> None:
    """Makes or shows certificates; there are no figures to report."""
    extra = options.extra
    if extra.action == "show":
        who, until = read_identity(extra.file)
        say(f"{who.uri}, until {until:%Y-%m-%d %H:%M} UTC")
        return
    if extra.days < 1:
        raise ConfigError(f"--days is {extra.days}; name 1 or more")
    if extra.action == "init":
        _say_made(made := make_authority(extra.folder, extra.days))
        say(f"Keep {made.key} off all hosts: it says who belongs.")
        return
    try:
        who = PeerIdentity(extra.region, extra.site, extra.host)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    made = issue(extra.folder, who, extra.days)
    _say_made(made)
    say(
        f"On that host:\nsecurity:\n  ca: {extra.folder / 'ca.pem'}\n"
        f"  certificate: {made.certificate}\n  key: {made.key}"
    )


def _say_made(made: Issued) -> None:
    say(f"wrote {made.certificate} and {made.key}, until {made.expires:%Y-%m-%d}")
