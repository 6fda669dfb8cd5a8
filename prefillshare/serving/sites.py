"""The agents that `serve all` starts, and what lies between their sites."""

from __future__ import annotations

from pathlib import Path

from prefillshare.errors import ConfigError
from prefillshare.models.loading import model_layout
from prefillshare.models.record import DecoderRecord
from prefillshare.policy.placement import Side
from prefillshare.serving.processes import Processes
from prefillshare.serving.settings import ServeSettings, SitesSettings
from prefillshare.transfer.agent.settings import AgentSettings
from prefillshare.transfer.agent.space import whole_pages
from prefillshare.transfer.linkemu.shaper import LinkSettings
from prefillshare.transfer.secure.authority import issue, make_authority
from prefillshare.transfer.secure.contexts import SecuritySettings, read_identity
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.sockets import format_address

# Of the certificates that are made for one run.
_REGION = "local"


def check_certificates(sites: SitesSettings) -> None:
    """Raise `ConfigError` if a given certificate is unusable, or another site's."""
    for site in (sites.prefill, sites.decode):
        if site.security is None:
            continue
        file = site.security.certificate
        who, _ = read_identity(file)
        if who.site != site.name:
            raise ConfigError(
                f"{file} is of site {who.site!r}, not of {site.name!r}; correct the "
                "name, or issue another with `prefillshare keys issue`"
            )


def start_agents(
    settings: ServeSettings, folder: Path, processes: Processes
) -> dict[Side, Path]:
    """Start one agent for all, or one a site and the link; the socket of each side.

    What they need lies in `folder`. Raises what `Processes.await_ready` does, and
    `ConfigError` if certificates cannot be made.
    """
    starter = _Starter(settings, folder, processes)
    sizes = arena_bytes(settings)
    if settings.sites is None:
        socket, _ = starter.agent("agent", sum(sizes.values()))
        return {"prefill": socket, "decode": socket}
    sites = settings.sites
    keys = certificates(sites, folder / "keys")
    lender, address = starter.agent("prefill", sizes["prefill"], keys["prefill"])
    routes = {}
    if sites.link is not None:
        routes[address] = starter.link(address, sites.link.emulated)
    mover, _ = starter.agent("decode", sizes["decode"], keys["decode"], routes)
    return {"prefill": lender, "decode": mover}


def arena_bytes(settings: ServeSettings) -> dict[Side, int]:
    """What the workers of either side allocate of their agent's arena."""
    form, decode = settings.kv_format, settings.decode_blocks

    def pool(model: Path, blocks: int) -> int:
        return whole_pages(blocks * form.bytes_per_block(model_layout(model)))

    sizes: dict[Side, int] = {
        "prefill": pool(settings.model, settings.prefill_blocks),
        "decode": 0,
    }
    for decoder in settings.decoders:
        record = DecoderRecord.load(decoder.path)
        if record.prefill == "own":
            continue
        sizes["decode"] += pool(settings.model, decode)
        # Either side may be the one that bridges.
        if record.bridge is not None and decoder.model is not None:
            for side in sizes:
                sizes[side] += pool(decoder.model, decode)
    return sizes


class _Starter:
    """Starts the processes one by one: each is told where the one before listens."""

    def __init__(
        self, settings: ServeSettings, folder: Path, processes: Processes
    ) -> None:
        self._settings, self._folder = settings, folder
        self._processes = processes

    def agent(
        self,
        name: str,
        size: int,
        security: SecuritySettings | None = None,
        routes: dict[str, str] | None = None,
    ) -> tuple[Path, str]:
        """Start an agent; its Unix socket and its address."""
        settings = AgentSettings(
            socket=self._folder / f"{name}.sock",
            listen=format_address(self._settings.host, 0),
            arena_bytes=size,
            tcp=self._settings.tcp,
            security=security,
            routes=routes or {},
        )
        config = self._written(name, settings)
        title = name if security is None else f"{name} site's agent"
        arguments = ["serve", "agent", "--config", config]
        return settings.socket, self._ready(title, "prefillshare", arguments)

    def link(self, address: str, settings: LinkSettings) -> str:
        """Start the emulator of a link to an address; where that link begins."""
        target = address.removeprefix("tcp://")
        arguments = [target, "--config", self._written("link", settings)]
        return self._ready("link", "prefillshare.transfer.linkemu", arguments)

    def _written(self, name: str, settings: AgentSettings | LinkSettings) -> str:
        path = self._folder / f"{name}.yaml"
        # JSON is YAML.
        path.write_text(settings.model_dump_json())
        return str(path)

    def _ready(self, name: str, module: str, arguments: list[str]) -> str:
        role = self._processes.spawn(name, module, arguments)
        self._processes.await_ready(role)
        return role.url


def certificates(sites: SitesSettings, folder: Path) -> dict[Side, SecuritySettings]:
    """Those that are configured, or of an authority that signs nothing else."""
    given, others = sites.prefill.security, sites.decode.security
    if given is not None and others is not None:
        return {"prefill": given, "decode": others}
    authority = make_authority(folder)

    def issued(site: str, side: Side) -> SecuritySettings:
        made = issue(folder, PeerIdentity(_REGION, site, side))
        return SecuritySettings(
            ca=authority.certificate, certificate=made.certificate, key=made.key
        )

    made: dict[Side, SecuritySettings] = {
        "prefill": issued(sites.prefill.name, "prefill"),
        "decode": issued(sites.decode.name, "decode"),
    }
    authority.key.unlink()
    return made
