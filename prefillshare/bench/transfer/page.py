"""The page of the transfer benchmark, `docs/results/transfer.md`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prefillshare.bench.markdown import opening
from prefillshare.bench.transfer import tables
from prefillshare.bench.transfer.fio import command as fio_command
from prefillshare.bench.transfer.method import how, method
from prefillshare.bench.transfer.specs import BULK, ONE_CORE, SHAPES, Fio
from prefillshare.bench.transfer.verdicts import ratio_lines, summary, target_lines

Row = Mapping[str, Any]
Rows = Sequence[Row]

_FOLDERS = {"peers": "FOLDER", "folder": "DISK"}
_RATIOS = (
    "Ratios are of one round each, then the median (min–max) over the rounds; above 1 "
    "is in favour of the first named: more bytes a second, or less delay, processor "
    "time or memory than the other. Targets go by the median; won or lost is in every "
    "round.\n"
)


def transfer_page(
    results: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    note: str = "",
) -> str:
    """Markdown with every figure of the run, who won what, and how it was measured."""
    rows, targets = results["rows"], results["targets"]
    title = "The transfer engine beside sockets and other engines"
    parts = [
        *opening(title, config, environment, _public(command, config), note),
        *_interpreters(config),
        _RATIOS,
        *summary(targets),
        *_sections(rows, targets, config),
        *_not_run(rows, config),
        "## Ratios\n",
        *ratio_lines(results["ratios"], config),
        "## Settings\n",
        *_settings(config),
        "\n## How it was measured\n",
        method(config),
    ]
    return "\n".join(parts)


def _sections(rows: Rows, targets: Rows, config: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, part by part, with the targets of each."""
    ran = [row for row in rows if "not_run" not in row]
    for part, title, draw in _PARTS:
        text = draw(ran)
        lines = list(target_lines(targets, part))
        if text or lines:
            yield f"## {title}\n"
            yield from (each for each in (how(part, config), text) if each)
            yield from lines


def _of(rows: Rows, *shapes: str, direction: str = "write") -> list[Row]:
    """Rates between two ends."""
    return [
        row
        for row in rows
        if row["shape"] in shapes
        and row["direction"] == direction
        and row["peer"] not in ONE_CORE
    ]


def _rates(rows: Rows) -> str:
    parts = [_table(tables.rates, _of(rows, "contiguous", "scattered"))]
    sums = [row for row in rows if row["peer"] == "xxh3"]
    parts += [_table(tables.checksums, sums), _ceiling(rows, "xxh3", "makes checksums")]
    text = "\n".join(each for each in parts if each)
    reads = _of(rows, "contiguous", "scattered", direction="read")
    told = "Peers' reads, which are not compared with anything:\n\n"
    return text + ("\n" + told + tables.rates(reads) if reads else "")


def _encryption(rows: Rows) -> str:
    alone = [row for row in rows if row["peer"] == "aes-gcm"]
    sealed = [row for row in rows if _is_sealed(row) and row["shape"] in BULK]
    parts = [_table(tables.ciphers, alone), _table(tables.rates, sealed)]
    parts.append(_ceiling(rows, "aes-gcm", "seals"))
    return "\n".join(each for each in parts if each)


def _is_sealed(row: Row) -> bool:
    return bool(row["settings"].get("encrypted") or row["settings"].get("tls"))


def _ceiling(rows: Rows, peer: str, does: str) -> str:
    """What a core reaches that first does the one and then sends, by both figures."""
    first = _first_speed(rows, peer)
    send = _first_speed([row for row in rows if not _is_sealed(row)], "socket")
    if first is None or send is None:
        return ""
    both = first * send / (first + send)
    return (
        f"A core that {does} at {first:.2f} GB/s and then sends at {send:.2f} GB/s, as "
        f"the first bare socket does, comes to {both:.2f} GB/s, {both / send:.2f} of "
        "it.\n"
    )


def _first_speed(rows: Rows, peer: str) -> float | None:
    for row in rows:
        if (row["peer"], row["shape"]) == (peer, "contiguous"):
            return float(row["gbps"]["median"]) / 8
    return None


def _delays(rows: Rows) -> str:
    """And what handing on costs by itself: what is left is the engine's own work."""
    ran = [row for row in rows if row["shape"] == "latency"]
    alone = [row for row in ran if (row["peer"], row["case"]) == ("socket", "idle")]
    handed = [row for row in alone if row["settings"].get("handed")]
    direct = [row for row in alone if "streams" in row["settings"]]
    if not handed:
        return _table(tables.delays, ran)
    floor, bare = handed[0], direct[0]
    return tables.delays(ran) + (
        f"\nA write that a bare socket does in {bare['p50_us']:.0f} µs (p99 "
        f"{bare['p99_us']:.0f}) takes {floor['p50_us']:.0f} µs (p99 "
        f"{floor['p99_us']:.0f}) where threads read the sockets and hand on what came, "
        "without a frame, a check or a time-out: less cannot be had of an engine of "
        "threads in Python.\n"
    )


def _table(draw: Callable[[Rows], str], rows: Rows) -> str:
    return draw(rows) if rows else ""


def _shape(draw: Callable[[Rows], str], shape: str) -> Callable[[Rows], str]:
    return lambda rows: _table(draw, [row for row in rows if row["shape"] == shape])


_PARTS: tuple[tuple[str, str, Callable[[Rows], str]], ...] = (
    ("rates", "Rates", _rates),
    (
        "small",
        "Small blocks",
        lambda rows: _table(tables.rates, _of(rows, "small", "grouped")),
    ),
    ("encryption", "Encryption", _encryption),
    ("cpu", "Processor time", lambda rows: ""),
    (
        "latency",
        "Delay of one small write, until it is known to have arrived",
        _delays,
    ),
    ("delayed", "Over a long link", _shape(tables.links, "delayed")),
    ("link", "The emulator held to its settings", _shape(tables.emulator, "link")),
    ("handover", "Handed over in shared memory", _shape(tables.handovers, "handover")),
    ("sequential", "Files", _shape(tables.files, "sequential")),
    ("memory", "Memory of agents", _shape(tables.memories, "memory")),
)


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what is only true of one machine's folders."""
    pythons = {peer: f"{peer.upper()}_PYTHON" for peer in config["pythons"]}
    folders = {
        name: public for name, public in _FOLDERS.items() if config[name] is not None
    }
    return {**config, **folders, "pythons": pythons}


def _public(command: str, config: Mapping[str, Any]) -> str:
    """The command, likewise."""
    public = public_config(config)
    for peer, python in sorted(config["pythons"].items()):
        command = command.replace(str(python), public["pythons"][peer])
    for name in _FOLDERS:
        if config[name] is not None:
            command = command.replace(str(config[name]), public[name])
    return command


def _interpreters(config: Mapping[str, Any]) -> Iterator[str]:
    if config["peers"] is not None:
        yield (
            "FOLDER holds the peers' programs, and `PEER_PYTHON` is the interpreter "
            "of an environment with that peer's package: "
            "`mooncake-transfer-engine-non-cuda`, `nixl-cu12`.\n"
        )


def _not_run(rows: Rows, config: Mapping[str, Any]) -> Iterator[str]:
    absent = [
        f"- {row['peer']}, {row['settings']['name']}: not run: {row['not_run']}"
        for row in rows
        if "not_run" in row
    ]
    asked = config["shapes"]
    absent += [
        f"- {shape}: not asked for (`shapes`)" for shape in SHAPES if shape not in asked
    ]
    if absent:
        yield from ("## Not run\n", *absent, "")


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "By default the engine has a stream for each core, two to four, and slices of "
        "1 to 4 MiB, by the transfer; the bare socket's kernel buffers grow by "
        "themselves.\n"
    )
    for ours in config["ours"]:
        told = _told(ours, ("streams", "slice_bytes"))
        sealed = "slices sealed, TLS" if ours["encrypted"] else "slices with checksums"
        agent = "; by an agent at each end" if ours["agent"] else ""
        yield f"- prefillshare, {ours['name']}: {sealed}; {told}{agent}{_only(ours)}"
    for bare in config["sockets"]:
        told = _told(bare, ("streams", "call_bytes", "buffer_bytes"))
        kind = "`ssl` sockets, TLS 1.3" if bare["tls"] else "no checksums"
        kind += ", handed on between threads" if bare["handed"] else ""
        yield f"- socket, {bare['name']}: {kind}; {told}{_only(bare)}"
    for program in config["programs"]:
        variables = program["environment"].items()
        told = ", ".join(f"`{key}={value}`" for key, value in variables)
        yield f"- {program['peer']}, {program['name']}: {told or 'as it comes'}"
    for fio in config["fio"]:
        size, spec = config["total_bytes"], Fio.model_validate(fio)
        told = " ".join(fio_command("FILE", size, spec, "write", direct=True))
        yield f"- fio, {fio['name']}: `fio {told}`; `--rw=read` after it"


def _only(spec: Mapping[str, Any]) -> str:
    return f"; only {', '.join(spec['shapes'])}" if spec["shapes"] else ""


def _told(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    values = ((name, settings[name]) for name in names)
    return ", ".join(f"{n} {'by default' if v is None else v}" for n, v in values)
