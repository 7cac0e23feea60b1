"""The processes that write into a tuning log, and what they are put through.

``python -m benchmarks.log_writers URL PLAN WRITER FIRST`` is one writer; it says "ready", begins
when it reads a line, and says after each batch what was acknowledged. ``write`` starts them all.

A writer delivers every 25th of its batches once more a little later, and of every 50th the one
that the next writer is delivering at about the same time, as devices and coordinators do whose
acknowledgements were lost. It asks for a workload's best ten now and then. The first two writers
are killed (SIGKILL) when they have done a part of their work: a successor begins with the first
batch that was not acknowledged, which may be in the log all the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.log_records import DEVICE_KIND, Plan, batch_of
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.best import best_k
from protos.errors import LogUnavailable

ONCE_MORE_EVERY, ONCE_MORE_LATER = 25, 4
NEIGHBOURS_EVERY = 50
ASK_EVERY = 20
MOST_REFUSED = 100
KILLED_AT = (0.4, 0.6)
"""The share of its work at which a writer is killed: of the first, of the second."""


class Said(NamedTuple):
    """What a writer says after a batch of its own; ``new`` counts all that it delivered."""

    at: float
    batch: int
    rows: int
    again: int
    refused: int
    rss_bytes: int


@dataclass
class Writer:
    """One share of the work: what was acknowledged of it, by one process or several."""

    number: int
    said: list[Said] = field(default_factory=list)
    killed: bool = False
    ended: int | None = None


def write(url: str, plan: Plan, plan_file: Path) -> tuple[float, list[Writer]]:
    """Let all writers write; seconds since 1970 when they began, and what they said.

    Raises RuntimeError if one of them fails.
    """
    writers = [Writer(number) for number in range(plan.writers)]
    together = threading.Barrier(plan.writers + 1)
    threads = [
        threading.Thread(target=_attend, args=(writer, url, plan, plan_file, together))
        for writer in writers
    ]
    for thread in threads:
        thread.start()
    together.wait()
    began = time.time()
    for thread in threads:
        thread.join()
    failed = [writer.number for writer in writers if writer.ended != 0]
    if failed:
        raise RuntimeError(f"writers {failed} of the tuning log failed; see above")
    return began, writers


def _attend(
    writer: Writer, url: str, plan: Plan, plan_file: Path, together: threading.Barrier
) -> None:
    """Run a writer's process, kill it where that is due, and run its successor."""
    batches = len(plan.sizes(writer.number))
    fatal = None
    if writer.number < min(len(KILLED_AT), plan.writers):
        fatal = int(batches * KILLED_AT[writer.number])
    with _started(url, plan_file, writer.number, 0) as process:
        _ready(process)
        together.wait()
        _go_on(process)
        _listen(writer, process, fatal)
    writer.ended = process.returncode
    if fatal is not None and writer.killed:
        first = writer.said[-1].batch + 1 if writer.said else 0
        with _started(url, plan_file, writer.number, first) as process:
            _ready(process)
            _go_on(process)
            _listen(writer, process, None)
        writer.ended = process.returncode


def _started(url: str, plan_file: Path, number: int, first: int) -> subprocess.Popen[str]:
    module = (sys.executable, "-m", "benchmarks.log_writers")
    command = [*module, url, str(plan_file), str(number), str(first)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def _ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.readline()  # or the end, if it failed: its return code tells


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    if process.poll() is None:
        process.stdin.write("\n")
        process.stdin.flush()


def _listen(writer: Writer, process: subprocess.Popen[str], fatal: int | None) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if not line.endswith("\n"):
            break  # it was killed in the middle of a word
        words = line.split()
        writer.said.append(Said(float(words[0]), *map(int, words[1:])))
        if fatal is not None and writer.said[-1].batch >= fatal and not writer.killed:
            writer.killed = True
            process.kill()  # what it had said before is still read


# ------------------------------------------------------------------------- one writer


def main() -> None:
    """The process of a writer."""
    url, plan_file, number, first = sys.argv[1:]
    plan = Plan.load(Path(plan_file))
    log = TuningLog.open(url)
    print("ready", flush=True)
    sys.stdin.readline()
    for said in _deliver(log, plan, int(number), int(first)):
        print(*said, flush=True)
    log.close()


def _deliver(log: TuningLog, plan: Plan, number: int, first: int) -> Iterator[Said]:
    sizes, neighbour = plan.sizes(number), (number + 1) % plan.writers
    neighbours = plan.sizes(neighbour)
    refused = 0

    def deliver(writer: int, batch: int, size: int) -> list[bool]:
        nonlocal refused
        results = batch_of(plan, writer, batch, size)
        while True:
            try:
                return log.record_many(results)
            except LogUnavailable:  # SQLite, when others held it for 30 s: not acknowledged
                refused += 1
                if refused > MOST_REFUSED:
                    raise

    for batch in range(first, len(sizes)):
        again = 0
        if batch % NEIGHBOURS_EVERY == 0 and batch < len(neighbours):
            again += len(deliver(neighbour, batch, neighbours[batch]))
        deliver(number, batch, sizes[batch])
        if batch % ONCE_MORE_EVERY == ONCE_MORE_EVERY - 1:
            before = batch - ONCE_MORE_LATER
            again += len(deliver(number, before, sizes[before]))
        if batch % ASK_EVERY == 0:
            workload = (batch * plan.writers + number) % len(plan.workload_keys)
            with log.reading() as connection:
                best_k(connection, plan.workload_keys[workload], DEVICE_KIND, 10, False)
        yield Said(time.time(), batch, sizes[batch], again, refused, _rss_bytes())


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
