"""Is a farm hurt by what others say? Mutated messages of every kind, to running processes.

``python -m benchmarks.fuzz [--messages 100000] [--seed N]``

Fake agents and clients say mutated messages to a ``tunefarm serve`` on all its ports, and a fake
coordinator says them to ``tunefarm agent`` processes. The messages are valid ones with bits, bytes
and lengths changed, truncated, repeated, nested too deep or with unknown fields; and what
Hypothesis makes of valid ones by the messages' definitions: numbers that are not finite, negative
or too large, texts that are too long or hold control characters, lists that are too long, parts
that are missing. They are the same for one seed; in which order the processes see them is not.

Beside that a real agent measures a real job, a job whose devices are the fake agents is built and
measured in earnest (they answer leases as they should, twice, late, and wrong), and one
well-behaved session watches that it is not disturbed.

It fails unless

- every message is answered clearly: it is taken, refused with a status that says what was wrong, or
  an agent hangs up (and dials in anew). UNKNOWN, INTERNAL, UNAVAILABLE and silence are not clear;
- all processes are those that were started, and none logged a defect;
- memory, file descriptors and threads are within ``verdict``'s bounds of what they were after the
  first three fifths of the messages;
- the real agent's and the watching session were never interrupted, and the real job is done;
- every measurement that was acknowledged is in the log exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fuzz.farm import Farm
from benchmarks.fuzz.speakers import Plan
from benchmarks.process import progress
from benchmarks.result import last_line, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the ledger and, as the last line, one JSON object; 1 if anything is violated."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--messages", type=int, default=100_000, help="mutated ones, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=200, help="of the real job; 0: there is none")
    parser.add_argument("--agents", type=int, default=4, help="that a fake coordinator talks to")
    parser.add_argument("--keep", type=Path, help="a folder for the log and what was said")
    options = parser.parse_args(arguments)
    plan = Plan(options.messages, options.seed, options.trials, options.agents)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="tunefarm-fuzz-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        found = asyncio.run(Farm(plan, folder, progress).run())
    ledger = found.ledger
    print(table(("to", "messages", "answers"), list(ledger.rows())))
    figures = {
        "messages": float(ledger.messages),
        "crashes": float(found.crashes),
        "leaked_mb": round(found.leaked_mb, 1),
        "lost": float(found.lost),
        "doubled": float(found.doubled),
        "unclear": float(len(ledger.unclear)),
        "acknowledged": float(len(ledger.acknowledged & ledger.given)),
        "seconds": round(time.monotonic() - began, 1),
    }
    for line in (*ledger.violations[:50], *ledger.unclear[:50]):
        progress(f"VIOLATED {line}")
    print(last_line("fuzz", figures))
    failed = bool(ledger.violations or ledger.unclear)
    return int(failed or bool(found.crashes or found.lost or found.doubled))


if __name__ == "__main__":
    sys.exit(main())
