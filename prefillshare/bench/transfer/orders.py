"""What every worker process answers to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from prefillshare.bench.transfer import usage
from prefillshare.bench.transfer.processes import Facts


class Worker:
    """A process of a measurement, its helpers included."""

    def answer(self, order: str, arguments: Facts) -> Facts:
        """Run an order by its name; what it found."""
        run: Callable[..., Facts | None] = getattr(self, order)
        return run(**arguments) or {}

    def usage(self) -> Facts:
        """Seconds of processor time so far, and resident bytes now and at most.

        `helpers_resident` and `helpers_peak` are of the processes that it started.
        """
        mine, *others = usage.family(os.getpid())
        # Ticks are coarse; this process's own time is known more finely.
        cpu = time.process_time() + sum(map(usage.cpu_seconds, others))
        helpers = {
            "helpers_resident": _sum(usage.resident_bytes, others),
            "helpers_peak": _sum(usage.peak_bytes, others),
        }
        resident = _sum(usage.resident_bytes, [mine]) + helpers["helpers_resident"]
        peak = _sum(usage.peak_bytes, [mine]) + helpers["helpers_peak"]
        return {"cpu": cpu, "resident": resident, "peak": peak, **helpers}

    def forget_peaks(self) -> None:
        """Begin the peaks of memory anew, from what is resident now."""
        for each in usage.family(os.getpid()):
            usage.reset_peak(each)


def _sum(measure: Callable[[int], int | None], processes: Sequence[int]) -> int:
    return sum(measure(each) or 0 for each in processes)
