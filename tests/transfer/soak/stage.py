"""The processes of one mode, the ways between them, and waves that pass over them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from prefillshare.transfer.secure.authority import issue, make_authority
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp.frames import EAGER_BYTES
from prefillshare.transfer.tcp.sockets import parse_address
from tests.transfer.pairs import until
from tests.transfer.soak.cases import Case, Harm, Mode, Wave
from tests.transfer.soak.middleman import Act, Channel, Middleman, Trap
from tests.transfer.soak.process import Hung, Killed, Process
from tests.transfer.soak.verdict import SECOND, Record, complaints

Facts = dict[str, Any]
ARENA_BYTES = 64 << 20
SECONDS, LEASE, SHORT, BRIEF = 60.0, 120.0, 0.4, 0.15
TRAPS: dict[str, tuple[Channel, Act]] = {
    "reset": ("data", "reset"),
    "stall": ("data", "stall"),
    "cut": ("control", "reset"),
    "flip data": ("data", "flip"),
    "flip control": ("control", "flip"),
    "kill lender": ("data", "call"),
    "kill mover": ("data", "call"),
}
ACTS = {"cancel": "cancel"} | dict.fromkeys(
    ("timeout", "revoke", "expire", "leave"), "wait"
)


@dataclass
class Way:
    """Two ends, the middleman between them, and the address that the mover asks."""

    lender: Process
    mover: Process
    relay: Middleman
    to: str


class Stage:
    """A lender and a mover that live throughout, and guests that are killed.

    Their middleman passes on what goes between the first two; each guest has another,
    but where agents own the connections all goes between those.
    """

    def __init__(self, mode: Mode, folder: Path) -> None:
        self.mode, self.folder = mode, folder
        self._stack = ExitStack()
        self._pool = self._stack.enter_context(ThreadPoolExecutor(6))
        self.agents: list[Process] = []
        self._processes: list[Process] = []
        self.free: list[int] = []
        self.sprung: list[str] = []
        self.log = folder / "peers.log"
        if mode == "sealed":
            make_authority(folder)
            for host in ("lender", "mover"):
                issue(folder, PeerIdentity("eu", f"of-{host}", host))

    def __enter__(self) -> Self:
        with self._stack:
            if self.mode == "hosted":
                self._host()
            lender, address = self._opened("lender")
            mover, _ = self._opened("mover")
            self.way = self._way(lender, address, mover)
            self._guests = {
                "kill lender": self._way(*self._opened("lender"), mover),
                "kill mover": self._way(lender, address, self._opened("mover")[0]),
            }
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _host(self) -> None:
        routes: dict[str, str] = {}
        for name in ("lender", "mover"):
            agent = self._process(f"agent of {name}")
            path = str(self.folder / f"{name}.sock")
            facts = agent.ask("host", path=path, arena_bytes=ARENA_BYTES, routes=routes)
            self.agents.append(agent)
            self.free.append(facts["free"])
            if name == "lender":
                self._relay = self._middleman(facts["address"])
                routes = {facts["address"]: self._relay.address}

    def _process(self, name: str) -> Process:
        process = Process(name, self.log)
        self._processes.append(process)
        self._stack.callback(process.close)
        return process

    def _middleman(self, address: str) -> Middleman:
        relay = Middleman(parse_address(address)[1])
        self._stack.callback(relay.close)
        return relay

    def _opened(self, side: str) -> tuple[Process, str]:
        process = self._process(side)
        if self.mode == "hosted":
            path = str(self.folder / f"{side}.sock")
            return process, process.ask("work", path=path)["address"]
        files = None
        if self.mode == "sealed":
            names = {"ca": "ca.pem", "certificate": f"{side}.pem", "key": f"{side}.key"}
            files = {key: str(self.folder / name) for key, name in names.items()}
        return process, process.ask("open", port=0, files=files)["address"]

    def _way(self, lender: Process, address: str, mover: Process) -> Way:
        if self.mode == "hosted":
            return Way(lender, mover, self._relay, address)
        relay = self._middleman(address)
        return Way(lender, mover, relay, relay.address)

    def play(self, wave: Wave) -> list[Record]:
        """Let a wave pass; what it harmed works again afterwards."""
        way = self._guests.get(wave.harm, self.way)
        records = [Record(case, wave.harm) for case in wave.cases]
        grants = [_lend(way, case) for case in wave.cases]
        trap = self._trap(wave, way)
        way.relay.arm(trap)
        try:
            list(self._pool.map(partial(_move, way), records, grants))
        except Hung as hung:
            raise AssertionError(f"{hung}\n{self._where()}") from hung
        way.relay.arm(None)
        if trap is not None and trap.sprung.is_set():
            self.sprung.append(wave.harm)
        if wave.harm in self._guests:
            self._replace(wave.harm)
        list(self._pool.map(partial(_settle, way), records))
        return records

    def _where(self) -> str:
        """What all processes that live are at."""
        for process in self._processes:
            with self.log.open("a") as log:
                log.write(f"\n{process.name}:\n")
            told = self._told()
            if process.tell_where():
                # Its main thread is the last to be told of.
                with suppress(AssertionError):
                    until(partial(self._has_told, told))
        return self.log.read_text()[-100_000:]

    def _has_told(self, before: int) -> bool:
        return self._told() > before

    def _told(self) -> int:
        return self.log.read_text().count("in _run_module_as_main")

    def recovers(self, harm: Harm, case: Case) -> None:
        """The way that was harmed carries a case, at the third try at the latest.

        One end may have to find out first that what it had to the other is gone.
        """
        way = self._guests.get(harm, self.way)
        for _ in range(3):
            record = Record(case, "cut")
            _move(way, record, _lend(way, case))
            _settle(way, record)
            if record.delivered and not list(complaints(record)):
                return
        raise AssertionError(f"nothing passes any more after {harm}: {record}")

    def _trap(self, wave: Wave, way: Way) -> Trap | None:
        if wave.harm == "none":
            return None
        channel, act = TRAPS[wave.harm]
        large = sum(c.size for c in wave.cases if c.fed or c.size > EAGER_BYTES)
        tables = sum(100 + 8 * c.rows for c in wave.cases)
        left = int(wave.after * (large if channel == "data" else tables))
        dying = way.lender if wave.harm == "kill lender" else way.mover
        return Trap(channel, act, left, dying.kill)

    def _replace(self, harm: str) -> None:
        """Kill a guest, if that has not been done, and put another in its place."""
        way = self._guests[harm]
        side = harm.removeprefix("kill ")
        getattr(way, side).kill()
        fresh, address = self._opened(side)
        if side == "mover":
            self._guests[harm] = Way(way.lender, fresh, way.relay, way.to)
            return
        if self.mode != "hosted":
            way.relay.target = parse_address(address)[1]
        self._guests[harm] = Way(fresh, way.mover, way.relay, way.to)

    def give_back(self) -> None:
        """Wait until the agents have all of their memory again."""
        for agent, free in zip(self.agents, self.free, strict=True):
            until(partial(_is_free, agent, free))

    def vitals(self) -> dict[str, Facts]:
        """Of all that have lived from the beginning, by name."""
        to = [self.way.to, self._guests["kill lender"].to]
        found = {"mover": self.way.mover.ask("vitals", links=to, streams=3)}
        for process in (self.way.lender, *self.agents):
            found[process.name] = process.ask("vitals", links=[], streams=0)
        return found


def _is_free(agent: Process, free: int) -> bool:
    found: int = agent.ask("free")["free"]
    return found == free


def _lend(way: Way, case: Case) -> Facts:
    lease = SHORT if case.fault == "expire" else LEASE
    grant: Facts = way.lender.ask("lend", case=case.to_dict(), lease=lease)["grant"]
    return grant


def _move(way: Way, record: Record, grant: Facts) -> None:
    case = record.case
    with suppress(Killed):
        if case.fault == "late":
            way.lender.ask("revoke", number=case.number)
        record.tries.append(_try(way, case, grant, case.fault))
        if case.fault in SECOND:
            if case.fault == "again" and record.tries == [None] and not record.harmed:
                way.lender.ask("ended", number=case.number)
            record.tries.append(_try(way, case, grant, "none"))
        record.moved = way.mover.ask("moved", number=case.number)


def _try(way: Way, case: Case, grant: Facts, fault: str) -> str | None:
    way.mover.ask(
        "start",
        case=case.to_dict(),
        grant=grant,
        to=way.to,
        timeout=BRIEF if fault == "timeout" else SECONDS,
        forged=fault == "forged",
    )
    meanwhile: dict[str, Callable[[], Facts]] = {
        "revoke": lambda: way.lender.ask("revoke", number=case.number),
        "race": lambda: way.lender.ask("revoke", number=case.number),
        "leave": lambda: way.lender.ask("leave", number=case.number),
    }
    if fault in meanwhile:
        meanwhile[fault]()
    found = way.mover.ask("end", number=case.number, act=ACTS.get(fault, "go on"))
    error: str | None = found["error"]
    return error


def _settle(way: Way, record: Record) -> None:
    waits = record.delivered and not record.harmed and record.case.fault != "race"
    expires = record.case.fault == "expire" and not record.harmed
    with suppress(Killed):
        record.settled = way.lender.ask(
            "settle",
            number=record.case.number,
            seconds=SECONDS if waits or expires else 0.0,
            left=record.case.fault == "leave",
        )
