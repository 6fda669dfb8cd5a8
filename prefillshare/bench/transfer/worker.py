"""A process of a measurement: it answers JSON lines.

    python -m prefillshare.bench.transfer.worker ROLE

Every line is an order with its arguments; every answer is a line, of the results or of
an error. Its own output goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import IO

from prefillshare.bench.transfer.checksum import ChecksumWorker
from prefillshare.bench.transfer.cipher import CipherWorker
from prefillshare.bench.transfer.copying import CopyingWorker
from prefillshare.bench.transfer.ends import ReceivingWorker, SendingWorker
from prefillshare.bench.transfer.files import FileWorker
from prefillshare.bench.transfer.handover import LendingWorker, ReadingWorker
from prefillshare.bench.transfer.orders import Worker

ROLES: dict[str, Callable[..., Worker]] = {
    "receiver": ReceivingWorker,
    "sender": SendingWorker,
    "cipher": CipherWorker,
    "checksum": ChecksumWorker,
    "lender": LendingWorker,
    "reader": ReadingWorker,
    "copier": CopyingWorker,
    "file": FileWorker,
}


def serve(role: str, asked: IO[str], answers: IO[str]) -> int:
    """Answer orders until there are no more; the first one makes the worker."""
    worker: Worker | None = None
    for line in asked:
        try:
            order, arguments = json.loads(line)
            if worker is None:
                worker, found = ROLES[role](**arguments), {}
            else:
                found = worker.answer(order, arguments)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()
    return 0


def main(argv: Sequence[str]) -> int:
    """Serve on standard input and output."""
    # Whatever a library prints must not run into the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return serve(argv[0], sys.stdin, answers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
