"""The address that peers are told, which may differ from where an engine listens."""

from __future__ import annotations

import ipaddress
import re
import socket

from prefillshare.transfer.tcp.sockets import format_address, parse_address


def is_wildcard(address: str) -> bool:
    """Whether `tcp://HOST:PORT` is every address of a machine, and so none to go to."""
    try:
        host, _ = parse_address(address)
    except ValueError:
        # Of another transport.
        return False
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return _is_zero(host)
    mapped = getattr(found, "ipv4_mapped", None)
    return found.is_unspecified or bool(mapped and mapped.is_unspecified)


def _is_zero(host: str) -> bool:
    # What the kernel takes for an address of IPv4 may be as short as "0".
    try:
        return not any(socket.inet_aton(host))
    except OSError:
        return False


def check_reachable(address: str) -> None:
    """Raise `ValueError` for an address that peers cannot go to."""
    if is_wildcard(address):
        raise ValueError(
            f"{address} is every address of this machine, and none that peers could be "
            "told: they would reach themselves; set `advertise` to the host, or "
            "HOST:PORT, by which they reach this one"
        )


def parse_advertise(text: str) -> tuple[str, int]:
    """Host and port of HOST or HOST:PORT, 0 if there is none; `ValueError` otherwise.

    IPv6 stands in brackets where a port follows.
    """
    host, port = text.removeprefix("[").removesuffix("]"), "0"
    if not _is_ipv6(host) and ":" in text:
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if port == "0":
            raise ValueError(f"nobody reaches {text}; leave the port out, or name it")
    if not (_is_ipv6(host) or re.fullmatch(r"[\w.-]+", host, re.ASCII)):
        raise ValueError(f"{text!r} is no host; write HOST or HOST:PORT")
    try:
        found = parse_address(f"tcp://[{host}]:{port}")
    except ValueError:
        raise ValueError(f"{text!r} has no port; write HOST or HOST:PORT") from None
    check_reachable(format_address(*found))
    return found


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def advertised(address: str, advertise: str | None) -> str:
    """What peers are told of an engine at an address; `ValueError` if malformed."""
    if advertise is None:
        return address
    host, port = parse_advertise(advertise)
    return format_address(host, port or parse_address(address)[1])
