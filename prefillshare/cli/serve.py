"""`prefillshare serve {all,router,prefill,decode,agent}`."""

from __future__ import annotations

import argparse
import threading
from typing import TYPE_CHECKING, Any

from prefillshare.cli.command import Options, Report
from prefillshare.config import load_config
from prefillshare.errors import ConfigError, WorkerError
from prefillshare.lifeline import stop_event
from prefillshare.report import say

if TYPE_CHECKING:
    from prefillshare.serving.settings import ServeSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The role, and which decoder a decode worker serves."""
    parser.add_argument(
        "role",
        choices=("all", "router", "prefill", "decode", "agent"),
        help="all: every process of the configuration; agent: moves a host's KV",
    )
    parser.add_argument("--decoder", metavar="NAME", help="for the role `decode`")


def run(options: Options) -> Report | None:
    """Serve until SIGINT or SIGTERM."""
    role = options.extra.role
    if role == "agent":
        _serve_agent(options)
        return None
    # Late, as everything here: an agent is a small process, and this brings torch.
    from prefillshare.serving.settings import ServeSettings

    settings = load_config(ServeSettings, options.config, options.overrides)
    if role == "all":
        _serve_all(settings)
    else:
        _serve_role(role, settings, options.extra.decoder)
    return None


def _serve_agent(options: Options) -> None:
    from prefillshare.serving.agent import serve_agent
    from prefillshare.transfer.agent.settings import AgentSettings

    serve_agent(load_config(AgentSettings, options.config, options.overrides))


def _serve_all(settings: ServeSettings) -> None:
    from prefillshare.serving.launcher import Cluster

    with stop_event() as stopped:
        _watch(settings, stopped, Cluster)


def _watch(
    settings: ServeSettings, stopped: threading.Event, cluster_type: Any
) -> None:
    names = ", ".join(d.name for d in settings.decoders)
    say(f"starting a router and workers for {names}")
    with cluster_type(settings, stopped) as cluster:
        if stopped.is_set():
            return
        say(f"serving {names} at {cluster.url}/v1 (Ctrl-C stops)")
        told: set[str] = set()
        while not stopped.wait(1.0):
            ended = cluster.check()
            for sentence in ended:
                if sentence not in told:
                    say(f"{sentence}; requests that need it fail")
                    told.add(sentence)
            if len(ended) == len(cluster.roles):
                raise WorkerError("every process has ended; what they printed says why")


def _serve_role(role: str, settings: ServeSettings, decoder: str | None) -> None:
    from prefillshare.serving.worker import serve_app

    if role == "router":
        from prefillshare.serving.api import router_app

        app = router_app(settings)
    elif role == "prefill":
        from prefillshare.serving.prefill import prefill_app

        app = prefill_app(settings)
    else:
        from prefillshare.serving.decode import decode_app

        app = decode_app(settings, _known(settings, decoder))
    serve_app(app, role, settings.host, settings.port)


def _known(settings: ServeSettings, decoder: str | None) -> str:
    names = [d.name for d in settings.decoders]
    if decoder not in names:
        given = f"--decoder {decoder} is not" if decoder else "--decoder names none"
        raise ConfigError(f"{given} in the configuration, which has {', '.join(names)}")
    return decoder
