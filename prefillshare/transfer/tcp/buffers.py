"""How large the kernel lets a socket's buffers be, and who sizes them better."""

from __future__ import annotations

import functools
import logging
import socket
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)
_SYSCTLS = Path("/proc/sys/net")
# Of a kernel as it comes (Linux 4 and later), where it does not say.
_STOCK = {"wmem": (212_992, 4 << 20), "rmem": (212_992, 6 << 20)}
_OPTIONS = {"wmem": socket.SO_SNDBUF, "rmem": socket.SO_RCVBUF}
# A buffer size is an int, and the kernel doubles it.
_MOST = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Of the buffers to send from (`wmem`) or receive into (`rmem`), in payload bytes.

    `asked` is the most that a socket gets which asks (net.core), `tuned` the most that
    the kernel gives one by itself as it sees the path (net.ipv4).
    """

    name: str
    asked: int
    tuned: int

    def choose(self, wanted: int) -> int | None:
        """What to ask for; None has the kernel size the buffer.

        Who asks gets no more than `asked`, without a word, and nothing by itself later:
        it is only better where that is more than `tuned`. Warns if neither is enough.
        """
        if wanted <= self.tuned:
            return None
        best = max(self.asked, self.tuned)
        if best < wanted:
            _warn(
                f"buffers of {wanted} bytes are wanted, for bandwidth times delay, and "
                f"the kernel gives {best} at most; raise net.core.{self.name}_max to "
                f"{wanted}, or the last of net.ipv4.tcp_{self.name} to {2 * wanted}"
            )
        return min(wanted, self.asked, _MOST) if self.asked > self.tuned else None


def limits_of(name: str, root: Path = _SYSCTLS) -> Limits:
    """What the kernel says now."""
    asked, tuned = _STOCK[name]
    asked = _last(root / f"core/{name}_max", asked)
    # The kernel counts its own needs as well, about as much again.
    return Limits(name, asked, _last(root / f"ipv4/tcp_{name}", tuned) // 2)


def size_buffers(sock: socket.socket, wanted: int | None) -> None:
    """Have a socket's buffers hold so many bytes; None leaves them to the kernel.

    Before it connects or listens: how far a window scales is agreed on then.
    """
    if wanted is None:
        return
    for name, option in _OPTIONS.items():
        if (size := limits_of(name).choose(wanted)) is not None:
            sock.setsockopt(socket.SOL_SOCKET, option, size)


def _last(path: Path, otherwise: int) -> int:
    try:
        return int(path.read_text().split()[-1])
    except (OSError, ValueError, IndexError):
        # In a container, some of them cannot be seen.
        return otherwise


@functools.cache
def _warn(text: str) -> None:
    _log.warning(text)
